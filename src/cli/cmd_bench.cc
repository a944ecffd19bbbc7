#include <cstdio>

#include "base/json.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "engine/bench.h"
#include "engine/load.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

/// Fewer layers, so that the weights fit the machine; 0 if all do.
int layers_that_fit(const model::ModelConfig& config, DType dtype, ops::Backend& backend) {
  const auto bytes = static_cast<double>(model::weight_bytes(config, dtype));
  const double room = 0.85 * static_cast<double>(backend.memory_available());
  if (bytes <= room) return 0;
  model::ModelConfig one = config;
  one.text.layers = 1;
  const auto base = static_cast<double>(model::weight_bytes(one, dtype));
  const double layer = (bytes - base) / (config.text.layers - 1);
  return std::max(1, 1 + static_cast<int>((room - base) / layer));
}

OrderedJson to_json(const engine::BenchReport& report, const engine::BenchOptions& options,
                    const model::ModelConfig& config, std::string_view name, int all_layers) {
  OrderedJson json;
  json["model"] = {{"name", name},
                   {"architecture", config.architecture},
                   {"dtype", dtype_name(options.dtype)},
                   {"layers", config.text.layers},
                   {"layers_of_shape", all_layers}};
  json["decode"] = {{"tokens_per_s", report.decode.tokens_per_s()},
                    {"gb_per_s", report.decode.bytes_per_s() / 1e9},
                    {"share_of_bandwidth", report.decode.bytes_per_s() / report.limits.read_bytes_per_s},
                    {"context", options.prompt},
                    {"generate", options.generate},
                    {"batch", options.batch}};
  json["prefill"] = {{"tokens_per_s", report.prefill.tokens_per_s()},
                     {"flops", report.prefill.flops_per_s()},
                     {"share_of_peak", report.prefill.flops_per_s() / report.limits.peak_flops},
                     {"prompt", options.prompt}};
  if (report.vision) {
    json["vision"] = {{"seconds", report.vision->seconds},
                      {"patches", report.vision->tokens},
                      {"flops", report.vision->flops_per_s()},
                      {"share_of_peak", report.vision->flops_per_s() / report.limits.peak_flops}};
  }
  json["limits"] = {{"gb_per_s", report.limits.read_bytes_per_s / 1e9}, {"flops", report.limits.peak_flops}};
  json["machine"] = {{"processor", processor_name()},
                     {"backend", report.backend},
                     {"threads", options.device.threads == 0 ? ThreadPool::processors() : options.device.threads}};
  return json;
}

void print_table(const engine::BenchReport& report, const engine::BenchOptions& options, std::string_view name,
                 const model::ModelConfig& config, int all_layers) {
  std::printf("%.*s, %s, backend %s, %s\n", static_cast<int>(name.size()), name.data(),
              std::string(dtype_name(options.dtype)).c_str(), report.backend.c_str(), processor_name().c_str());
  if (config.text.layers != all_layers) {
    std::printf("%d of %d layers: the whole does not fit this machine's memory; figures are of these layers\n",
                config.text.layers, all_layers);
  }
  std::printf("limits    memory read %.1f GB/s, multiply-add %.0f GFLOP/s\n", report.limits.read_bytes_per_s / 1e9,
              report.limits.peak_flops / 1e9);
  std::printf("prefill   %d tokens x %d: %.1f tokens/s, %.0f GFLOP/s, %.1f %% of the multiply-add peak\n",
              options.prompt, options.batch, report.prefill.tokens_per_s(), report.prefill.flops_per_s() / 1e9,
              100 * report.prefill.flops_per_s() / report.limits.peak_flops);
  std::printf("decode    batch %d at context %d: %.2f tokens/s, %.1f GB/s, %.1f %% of the memory bandwidth\n",
              options.batch, options.prompt, report.decode.tokens_per_s(), report.decode.bytes_per_s() / 1e9,
              100 * report.decode.bytes_per_s() / report.limits.read_bytes_per_s);
  if (report.vision) {
    std::printf("vision    %dx%d pixels, %.0f patches: %.2f s, %.0f GFLOP/s, %.1f %% of the multiply-add peak\n",
                options.image_height, options.image_width, report.vision->tokens, report.vision->seconds,
                report.vision->flops_per_s() / 1e9, 100 * report.vision->flops_per_s() / report.limits.peak_flops);
  }
}

}  // namespace

int cmd_bench(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "serve") return cmd_bench_serve(argc - 1, argv + 1);
  if (argc > 1 && std::string_view(argv[1]) == "attention") return cmd_bench_attention(argc - 1, argv + 1);
  CLI::App app(
      "Measures prefill and decode beside the machine's limits, for a checkpoint or a named shape with random weights. "
      "'keye bench serve --help' is about a server under load, 'keye bench attention --help' about one layer's "
      "attention",
      "bench");
  std::string folder;
  std::string shape;
  std::string image;
  ModelFlags flags;
  AttentionFlags attention;
  engine::BenchOptions options;
  int layers = 0;
  int chunk = 512;
  bool as_json = false;
  auto* model_flag = app.add_option("--model", folder, "checkpoint folder");
  app.add_option("--shape", shape,
                 fmt::format("named shape with random weights: {}", fmt::join(model::shape_names(), ", ")))
      ->excludes(model_flag);
  flags.add(app);
  attention.add(app);
  app.add_option("--prompt", options.prompt, "tokens before decoding starts")->capture_default_str();
  app.add_option("--generate", options.generate, "decode steps")->capture_default_str();
  app.add_option("--batch", options.batch, "sequences that decode together")->capture_default_str();
  app.add_option("--repeat", options.repeat, "repeats; medians are reported")->capture_default_str();
  app.add_option("--layers", layers, "run only so many decoder layers of a shape (default: as many as fit the memory)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--image", image, "also measure the vision encoder on a picture of HxW pixels, e.g. 1008x1008");
  app.add_option("--frames", options.frames, "pictures of that size at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--chunk", chunk, "tokens of a prompt in one step, and rows of one step")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_flag("--json", as_json, "print one JSON object");
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (folder.empty() == shape.empty()) return usage_error("bench", "give one of --model DIR and --shape NAME");
  if (!image.empty() && std::sscanf(image.c_str(), "%dx%d", &options.image_height, &options.image_width) != 2) {
    return usage_error("bench", fmt::format("--image: expected HxW such as 1008x1008, got \"{}\"", image));
  }
  options.device = flags.device;
  options.dtype = flags.dtype();

  engine::LoadedModel loaded;
  std::unique_ptr<model::Model> random;  // uses loaded.backend
  ops::Backend* backend = nullptr;
  int all_layers = 0;
  if (!shape.empty()) {
    auto config = model::named_shape(shape);
    if (!config) return report("bench", config.error());
    auto made = engine::open_device(flags.device);
    if (!made) return report("bench", made.error());
    loaded.backend = std::move(made).value();
    all_layers = config->text.layers;
    if (layers == 0) layers = layers_that_fit(*config, options.dtype, *loaded.backend);
    if (layers > 0) config->text.layers = std::min(layers, all_layers);
    auto made_model = model::random_model(*config, *loaded.backend,
                                          {.dtype = options.dtype,
                                           .attention = attention.options(options.dtype),
                                           .step_tokens_max = chunk,
                                           .step_logits_max = 128},
                                          1);
    if (!made_model) return report("bench", made_model.error());
    random = std::move(made_model).value();
  } else {
    auto opened = engine::load(folder, {.dtype = options.dtype,
                                        .attention = attention.options(options.dtype),
                                        .device = flags.device,
                                        .step_tokens_max = chunk,
                                        .progress = load_progress()});
    if (!opened) return report("bench", opened.error());
    loaded = std::move(opened).value();
    all_layers = loaded.model->config().text.layers;
  }
  backend = loaded.backend.get();
  model::Model& model = random ? *random : *loaded.model;
  auto result = engine::run_bench(model, *backend, options, bench_progress());
  if (!result) return report("bench", result.error());
  const std::string name = shape.empty() ? folder : shape;
  if (as_json) {
    std::puts(to_json(*result, options, model.config(), name, all_layers).dump(2).c_str());
  } else {
    print_table(*result, options, name, model.config(), all_layers);
  }
  return kExitOk;
}

}  // namespace keye::cli
