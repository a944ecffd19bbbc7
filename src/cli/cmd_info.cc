#include <cstdio>

#include "base/json.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "engine/load.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

size_t kv_bytes_per_token(const model::ModelConfig& config, DType dtype) {
  return model::kv_spec_of(config, {.dtype = dtype}).bytes_per_token();
}

OrderedJson describe(const model::ModelConfig& config, const model::Checkpoint& checkpoint) {
  const model::TextConfig& text = config.text;
  OrderedJson json;
  json["architecture"] = config.architecture;
  json["parameters"] = model::count_parameters(config);
  json["stored_bytes"] = checkpoint.bytes();
  std::map<std::string, size_t> dtypes;
  for (const auto& [name, stored] : checkpoint.tensors())
    dtypes[std::string(dtype_name(stored.view.dtype))] += stored.view.bytes();
  json["stored_dtypes"] = dtypes;
  json["text"] = {{"layers", text.layers},         {"hidden", text.hidden},        {"heads", text.heads},
                  {"kv_heads", text.kv_heads},     {"head_dim", text.head_dim},    {"vocab", text.vocab},
                  {"context", text.positions_max}, {"rope_theta", text.rope_theta}};
  if (text.mrope_sections) json["text"]["mrope_sections"] = *text.mrope_sections;
  if (text.moe) {
    json["text"]["experts"] = text.moe->experts;
    json["text"]["experts_per_token"] = text.moe->experts_per_token;
    json["text"]["expert_intermediate"] = text.moe->intermediate;
  } else {
    json["text"]["intermediate"] = text.intermediate;
  }
  if (text.latent) {
    json["text"]["latent_attention"] = {{"query_rank", text.latent->query_rank}, {"kv_rank", text.latent->kv_rank}};
  }
  if (text.indexer) {
    json["text"]["sparse_attention"] = {{"indexer_heads", text.indexer->heads},
                                        {"indexer_head_dim", text.indexer->head_dim},
                                        {"topk", text.indexer->topk}};
  }
  if (config.vision) {
    json["vision"] = {{"layers", config.vision->layers},
                      {"hidden", config.vision->hidden},
                      {"heads", config.vision->heads},
                      {"patch", config.vision->patch},
                      {"merge", config.vision->merge}};
  }
  for (const DType dtype : {DType::bf16, DType::f32}) {
    json["memory"][std::string(dtype_name(dtype))] = {
        {"weights_bytes", model::weight_bytes(config, dtype)},
        {"kv_bytes_per_1k_tokens", kv_bytes_per_token(config, dtype) * 1024}};
  }
  json["supported"] = {{"text", true},
                       {"pictures", config.vision.has_value()},
                       {"video", engine::prompt_spec(config).video.has_value()},
                       {"tools_in_template", true}};
  return json;
}

void print(const OrderedJson& json) {
  auto row = [](const char* name, const std::string& value) { std::printf("%-18s%s\n", name, value.c_str()); };
  auto gib = [](double bytes) {
    return bytes >= 1e9 ? fmt::format("{:.2f} GB", bytes / 1e9) : fmt::format("{:.1f} MB", bytes / 1e6);
  };
  const OrderedJson& text = json["text"];
  row("architecture", json["architecture"]);
  row("parameters",
      fmt::format("{} ({:.3g} billion)", json["parameters"].get<int64_t>(), json["parameters"].get<double>() / 1e9));
  std::string stored = gib(json["stored_bytes"].get<double>());
  for (const auto& [name, bytes] : json["stored_dtypes"].items())
    stored += fmt::format(", {} {}", name, gib(bytes.get<double>()));
  row("stored", stored);
  row("decoder", fmt::format("{} layers, hidden {}, {} heads of {}, {} KV heads, vocabulary {}",
                             text["layers"].get<int>(), text["hidden"].get<int>(), text["heads"].get<int>(),
                             text["head_dim"].get<int>(), text["kv_heads"].get<int>(), text["vocab"].get<int>()));
  if (text.contains("experts")) {
    row("experts", fmt::format("{}, {} for each token, width {}", text["experts"].get<int>(),
                               text["experts_per_token"].get<int>(), text["expert_intermediate"].get<int>()));
  }
  if (text.contains("sparse_attention")) {
    const OrderedJson& sparse = text["sparse_attention"];
    row("sparse attention", fmt::format("top {}, indexer of {} heads of {}", sparse["topk"].get<int>(),
                                        sparse["indexer_heads"].get<int>(), sparse["indexer_head_dim"].get<int>()));
  }
  if (json.contains("vision")) {
    const OrderedJson& vision = json["vision"];
    row("vision",
        fmt::format("{} layers, hidden {}, {} heads, patches of {}x{}, merged {}x{}", vision["layers"].get<int>(),
                    vision["hidden"].get<int>(), vision["heads"].get<int>(), vision["patch"].get<int>(),
                    vision["patch"].get<int>(), vision["merge"].get<int>(), vision["merge"].get<int>()));
  }
  row("context", fmt::format("{} tokens", text["context"].get<int>()));
  for (const auto& [dtype, memory] : json["memory"].items()) {
    row(("memory " + dtype).c_str(),
        fmt::format("weights {}, KV cache {} for 1,024 tokens", gib(memory["weights_bytes"].get<double>()),
                    gib(memory["kv_bytes_per_1k_tokens"].get<double>())));
  }
  const OrderedJson& supported = json["supported"];
  row("supported", fmt::format("text{}{}", supported["pictures"].get<bool>() ? ", pictures" : "",
                               supported["video"].get<bool>() ? ", videos" : ""));
}

}  // namespace

int cmd_info(int argc, char** argv) {
  CLI::App app("Shows what a checkpoint is, what it needs and what of it is supported", "info");
  std::string folder;
  bool as_json = false;
  app.add_option("--model", folder, "checkpoint folder (default: the model that comes with the program)");
  app.add_flag("--json", as_json, "print one JSON object");
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  const auto path = model_folder(folder);
  if (!path) return report("info", path.error());
  const auto config = engine::read_folder_config(*path);
  if (!config) return report("info", config.error());
  const auto checkpoint = model::Checkpoint::open(*path);
  if (!checkpoint) return report("info", checkpoint.error());
  if (auto fits = model::check_weights(config->model, *checkpoint); !fits) return report("info", fits.error());
  const OrderedJson json = describe(config->model, *checkpoint);
  if (as_json) {
    std::puts(json.dump(2).c_str());
  } else {
    print(json);
  }
  return kExitOk;
}

}  // namespace keye::cli
