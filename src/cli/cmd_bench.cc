#include <cstdio>

#include "base/json.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/rank_flags.h"
#include "engine/bench.h"
#include "engine/load.h"
#include "engine/parallel_model.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

struct BenchFlags {
  std::string folder, shape, image;
  ModelFlags model;
  AttentionFlags attention;
  RankFlags ranks;
  engine::BenchOptions options;
  int layers = 0;
  int chunk = 512;
  bool as_json = false;

  void add(CLI::App& app) {
    auto* model_flag = app.add_option("--model", folder, "checkpoint folder");
    app.add_option("--shape", shape,
                   fmt::format("named shape with random weights: {}", fmt::join(model::shape_names(), ", ")))
        ->excludes(model_flag);
    model.add(app);
    attention.add(app);
    ranks.add_of_one_node(app);
    app.add_option("--prompt", options.prompt, "tokens before decoding starts")->capture_default_str();
    app.add_option("--generate", options.generate, "decode steps")->capture_default_str();
    app.add_option("--batch", options.batch, "sequences that decode together")->capture_default_str();
    app.add_option("--repeat", options.repeat, "repeats; medians are reported")->capture_default_str();
    app.add_option("--layers", layers,
                   "run only so many decoder layers of a shape (default: as many as fit the memory)")
        ->check(CLI::Range(1, 4096));
    app.add_option("--image", image, "also measure the vision encoder on a picture of HxW pixels, e.g. 1008x1008");
    app.add_option("--frames", options.frames, "pictures of that size at once")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--chunk", chunk, "tokens of a prompt in one step, and rows of one step")
        ->check(CLI::Range(1, 1 << 16))
        ->capture_default_str();
    app.add_flag("--json", as_json, "print one JSON object");
  }
  /// "": fine; else what is wrong with the usage.
  std::string check() {
    if (folder.empty() == shape.empty()) return "give one of --model DIR and --shape NAME";
    if (!image.empty() && std::sscanf(image.c_str(), "%dx%d", &options.image_height, &options.image_width) != 2) {
      return fmt::format("--image: expected HxW such as 1008x1008, got \"{}\"", image);
    }
    options.device = model.device;
    options.dtype = model.dtype();
    return {};
  }
};

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

OrderedJson to_json(const engine::BenchReport& report, const BenchFlags& flags, const model::ModelConfig& config,
                    std::string_view name, int all_layers) {
  const engine::BenchOptions& options = flags.options;
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
                     {"threads", options.device.threads == 0 ? ThreadPool::processors() : options.device.threads},
                     {"tp_size", flags.ranks.tp_size}};
  return json;
}

void print_table(const engine::BenchReport& report, const BenchFlags& flags, std::string_view name,
                 const model::ModelConfig& config, int all_layers) {
  const engine::BenchOptions& options = flags.options;
  std::printf("%.*s, %s, backend %s, %s\n", static_cast<int>(name.size()), name.data(),
              std::string(dtype_name(options.dtype)).c_str(), report.backend.c_str(), processor_name().c_str());
  if (config.text.layers != all_layers) {
    std::printf("%d of %d layers: the whole does not fit this machine's memory; figures are of these layers\n",
                config.text.layers, all_layers);
  }
  if (flags.ranks.is_spread()) {
    std::printf("%d ranks of %d threads\n", flags.ranks.tp_size,
                options.device.threads == 0 ? ThreadPool::processors() : options.device.threads);
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

/// A model to be measured, and how many layers all of it has.
struct Measured {
  engine::LoadedModel loaded;
  int all_layers = 0;
};

Result<model::ModelConfig> config_of(const BenchFlags& flags, int* all_layers) {
  model::ModelConfig config;
  if (flags.shape.empty()) {
    KEYE_TRY(const auto read, engine::read_folder_config(flags.folder));
    config = read.model;
  } else {
    KEYE_TRY(config, model::named_shape(flags.shape));
  }
  *all_layers = config.text.layers;
  return config;
}

/// `layers`: of a shape; 0: all.
Result<Measured> open_model(const BenchFlags& flags, int layers, comm::Group* group) {
  Measured measured;
  KEYE_TRY(auto config, config_of(flags, &measured.all_layers));
  const model::Shard shard = group == nullptr ? model::Shard{} : flags.ranks.shard(group->place());
  const model::AttentionOptions attention = flags.attention.options(flags.options.dtype);
  if (flags.shape.empty()) {
    KEYE_TRY(measured.loaded, engine::load(flags.folder, {.dtype = flags.options.dtype,
                                                          .attention = attention,
                                                          .device = flags.model.device,
                                                          .step_tokens_max = flags.chunk,
                                                          .shard = shard,
                                                          .group = group,
                                                          .progress = load_progress()}));
    return measured;
  }
  engine::LoadedModel& loaded = measured.loaded;
  KEYE_TRY(loaded.backend, engine::open_device(flags.model.device));
  if (layers > 0) config.text.layers = std::min(layers, measured.all_layers);
  KEYE_TRY(loaded.model, model::random_model(config, *loaded.backend,
                                             {.dtype = flags.options.dtype,
                                              .attention = attention,
                                              .step_tokens_max = flags.chunk,
                                              .step_logits_max = 128,
                                              .shard = shard,
                                              .group = group},
                                             1));
  if (group != nullptr) engine::spread(loaded, *group);
  return measured;
}

Result<int> bench(BenchFlags& flags, std::vector<std::string> command) {
  KEYE_TRY_VOID(flags.ranks.check());
  int all_layers = 0;
  KEYE_TRY(const model::ModelConfig config, config_of(flags, &all_layers));
  KEYE_TRY_VOID(model::check_shard(config, flags.ranks.shard(flags.ranks.first_place())));
  int layers = flags.layers;
  if (layers == 0 && !flags.shape.empty()) {
    KEYE_TRY(const auto backend, engine::open_device(flags.model.device));
    layers = layers_that_fit(config, flags.options.dtype, *backend);
  }
  std::unique_ptr<RankProcess> ranks;
  if (flags.ranks.is_spread()) {
    // Of all ranks' processors, before each has its own.
    engine::DeviceOptions all = flags.model.device;
    all.threads *= flags.ranks.tp_size;
    flags.options.limits.emplace();
    engine::raise_limits(*flags.options.limits, all, flags.options.dtype);
    if (layers > 0 && flags.layers == 0) command.insert(command.end(), {"--layers", std::to_string(layers)});
    KEYE_TRY(ranks, start_node(flags.ranks, config, flags.chunk, {}, std::move(command), nullptr));
  }
  comm::Group* const group = ranks ? &ranks->group() : nullptr;
  KEYE_TRY(Measured measured, open_model(flags, layers, group));
  if (group != nullptr) group->meet();
  model::Model& model = *measured.loaded.model;
  KEYE_TRY(const engine::BenchReport report,
           engine::run_bench(model, *measured.loaded.backend, flags.options, bench_progress()));
  const std::string name = flags.shape.empty() ? flags.folder : flags.shape;
  if (flags.as_json) {
    std::puts(to_json(report, flags, model.config(), name, measured.all_layers).dump(2).c_str());
  } else {
    print_table(report, flags, name, model.config(), measured.all_layers);
  }
  return kExitOk;
}

Result<int> bench_rank(const BenchFlags& flags, int channel) {
  KEYE_TRY(const auto process, join_node(flags.ranks, channel));
  try {
    const auto measured = open_model(flags, flags.layers, &process->group());
    if (!measured) {
      process->give_up(measured.error().to_string());
      return measured.error();
    }
    process->group().meet();
    engine::follow(*measured->loaded.model, process->group());
    return kExitOk;
  } catch (const comm::PeerLost&) {
    return kExitFailed;
  }
}

constexpr const char* kAbout =
    "Measures prefill and decode beside the machine's limits, for a checkpoint or a named shape with random weights. "
    "'keye bench serve --help' is about a server under load, 'keye bench attention --help' about one layer's attention";

}  // namespace

int cmd_bench(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "serve") return cmd_bench_serve(argc - 1, argv + 1);
  if (argc > 1 && std::string_view(argv[1]) == "attention") return cmd_bench_attention(argc - 1, argv + 1);
  CLI::App app(kAbout, "bench");
  BenchFlags flags;
  flags.add(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (const std::string wrong = flags.check(); !wrong.empty()) return usage_error("bench", wrong);
  try {
    const auto code = bench(flags, {argv, argv + argc});
    return code ? *code : report("bench", code.error());
  } catch (const comm::PeerLost& lost) {
    return report("bench", Error{ErrorCode::unavailable, lost.what(), ""});
  }
}

int cmd_bench_rank(int argc, char** argv, int channel) {
  CLI::App app(kAbout, "bench");
  BenchFlags flags;
  flags.add(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (const std::string wrong = flags.check(); !wrong.empty()) return usage_error("bench", wrong);
  const auto code = bench_rank(flags, channel);
  return code ? *code : report("bench", code.error());
}

}  // namespace keye::cli
