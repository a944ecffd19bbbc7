#include <cstdio>

#include "base/json.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/model_flags.h"
#include "cli/video_flags.h"
#include "engine/load.h"
#include "engine/prefill.h"
#include "tensor/safetensors.h"

namespace keye::cli {
namespace {

Result<std::vector<int32_t>> read_ids(const std::string& path, int vocab) {
  KEYE_TRY(const Json json, read_json(path));
  if (!json.is_array() || json.empty())
    return make_error(ErrorCode::invalid_argument, path, "should be a JSON array of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : json) {
    if (!id.is_number_integer() || id < 0 || id >= vocab) {
      return make_error(ErrorCode::invalid_argument, path, "should hold token ids in [0, {}), got {}", vocab,
                        id.dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

struct Flags {
  std::string folder, messages, tools, ids, out;
  int chunk = 512;
  ModelFlags model;
  AttentionFlags attention;
};

Result<void> run(const Flags& flags) {
  KEYE_TRY(const Path folder, model_folder(flags.folder));
  KEYE_TRY(auto loaded, engine::load(folder, {.dtype = flags.model.dtype(),
                                              .attention = flags.attention.options(flags.model.dtype()),
                                              .device = flags.model.device,
                                              .step_tokens_max = flags.chunk,
                                              .step_logits_max = flags.chunk,
                                              .progress = load_progress()}));
  const int vocab = loaded.model->config().text.vocab;
  prompt::Prompt prompt;
  if (flags.ids.empty()) {
    KEYE_TRY(const auto conversation, read_conversation(flags.messages, flags.tools));
    media::VideoDecoder decoder({});
    KEYE_TRY(prompt, loaded.prompts->build(conversation, command_access(decoder, {}, {})));
  } else {
    KEYE_TRY(auto ids, read_ids(flags.ids, vocab));
    prompt = loaded.prompts->from_tokens(std::move(ids));
  }
  const auto n = static_cast<int64_t>(prompt.tokens.size());
  KEYE_TRY(const Tensor logits, engine::all_logits(*loaded.model, loaded.prompts->image_processor(), prompt,
                                                   flags.chunk, generate_progress()));
  Tensor positions(DType::i32, {3, n});
  for (size_t axis = 0; axis < 3; ++axis) {
    std::copy(prompt.positions[axis].begin(), prompt.positions[axis].end(),
              positions.as<int32_t>() + static_cast<int64_t>(axis) * n);
  }
  return write_safetensors(flags.out, {{"input_ids", {prompt.tokens.data(), DType::i32, {n}}},
                                       {"positions", positions.view()},
                                       {"logits", logits.view()}});
}

}  // namespace

int cmd_logits(int argc, char** argv) {
  CLI::App app(
      "Writes the logits of every token of a prompt: input_ids i32 [n], positions i32 [3, n], logits f32 [n, vocab]",
      "logits");
  Flags flags;
  app.add_option("--model", flags.folder, "checkpoint folder (default: the model that comes with the program)");
  auto* messages = app.add_option("--messages", flags.messages, "JSON file: a list of chat messages");
  app.add_option("--tools", flags.tools, "JSON file: a list of tool definitions for the chat template")
      ->needs(messages);
  app.add_option("--ids", flags.ids, "JSON file: an array of token ids")->excludes(messages);
  app.add_option("--chunk", flags.chunk, "tokens of one step; the result does not depend on it")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  app.add_option("--out", flags.out, "safetensors file to write")->required();
  flags.model.add(app);
  flags.attention.indexer = "f32";  // what others compare with is exact
  flags.attention.add(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (flags.messages.empty() == flags.ids.empty())
    return usage_error("logits", "give one of --messages F.json and --ids F.json");
  const auto done = run(flags);
  return done ? kExitOk : report("logits", done.error());
}

}  // namespace keye::cli
