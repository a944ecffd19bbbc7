#include <chrono>

#include "base/json.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/video_flags.h"
#include "engine/bench.h"
#include "engine/load.h"
#include "media/load.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

/// Of the speed of single products, what is left in a whole model.
constexpr double kShareOfProducts = 0.8;
/// How long a clip's speed is looked at.
constexpr double kProbeSeconds = 1.5;

struct Flags {
  std::string folder;
  ModelFlags model;
  VideoFlags video;
  bool as_json = false;
};

struct Plan {
  media::VideoInfo info;
  prompt::FrameChoice choice;
  prompt::FrameSizes sizes;  // slow_fast: if all frames were slow, and the size of fast ones then
  bool may_be_fast = false;
  int64_t tokens_per_frame = 0, fast_tokens_per_frame = 0;
  int64_t text_tokens = 0;  // marks and timestamps, about
  double decode_seconds = 0;

  int64_t frames() const { return static_cast<int64_t>(choice.indices.size()); }
  int64_t tokens() const { return frames() * tokens_per_frame + text_tokens; }
  /// If all frames but the first were fast.
  int64_t tokens_least() const {
    return may_be_fast ? tokens_per_frame + (frames() - 1) * fast_tokens_per_frame + text_tokens : tokens();
  }
};

/// Seconds for reading the frames, from the speed of the first ones.
Result<double> probe(media::FrameSource& source, const std::vector<int64_t>& indices, const std::stop_token& stop) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  size_t done = 0;
  const Error enough{ErrorCode::cancelled, "enough was seen", "probe"};
  const auto read = source.read(
      indices,
      [&](size_t place, media::Image&&) -> Result<void> {
        done = place + 1;
        if (elapsed() > kProbeSeconds) return enough;
        return {};
      },
      stop);
  if (!read && read.error().where != enough.where) return read.error();
  return elapsed() * static_cast<double>(indices.size()) / static_cast<double>(std::max<size_t>(done, 1));
}

Result<Plan> make_plan(const prompt::VideoReference& video, const prompt::VideoProcessor& processor,
                       const prompt::MediaAccess& access) {
  KEYE_TRY(const auto opened, prompt::open_video(video, processor.rules(), access));
  Plan plan;
  plan.info = opened.source->info();
  KEYE_TRY(plan.choice, prompt::choose_frames(processor.rules(), video.kwargs,
                                              processor.facts_of(plan.info, video.kwargs, opened.is_list)));
  KEYE_TRY(plan.sizes, prompt::frame_sizes(processor.rules(), video.kwargs, plan.choice.total_pixels,
                                           {.slow = plan.frames(), .fast = 0}, {plan.info.height, plan.info.width}));
  plan.may_be_fast = processor.rules().policy == prompt::VideoPolicy::slow_fast;
  const int64_t area = int64_t{processor.rules().factor} * processor.rules().factor;
  plan.tokens_per_frame = plan.sizes.slow.height * plan.sizes.slow.width / area;
  plan.fast_tokens_per_frame = plan.sizes.fast.height * plan.sizes.fast.width / area;
  for (const float seconds : plan.choice.timestamps) {
    plan.text_tokens += static_cast<int64_t>(prompt::timestamp_text(seconds).size());
  }
  plan.text_tokens += plan.frames();
  KEYE_TRY(plan.decode_seconds, probe(*opened.source, plan.choice.indices, access.stop));
  return plan;
}

OrderedJson to_json(const Plan& plan, const std::string& name, const model::ModelConfig& config, DType dtype,
                    double product_flops) {
  const model::StepCost cost = model::step_cost(config, dtype);
  const auto n = static_cast<double>(plan.tokens());
  const double per_frame = static_cast<double>(plan.sizes.slow.height * plan.sizes.slow.width) /
                           (config.vision->patch * config.vision->patch);
  const double vision =
      static_cast<double>(plan.frames()) * model::vision_flops(*config.vision, config.text.hidden, per_frame);
  const double prefill = n * cost.matmul_flops_per_token + n * n / 2 * cost.attention_flops_per_key;
  const auto kv = static_cast<double>(model::kv_spec_of(config, {.dtype = dtype}).bytes_per_token());
  const double speed = kShareOfProducts * product_flops;
  OrderedJson json;
  json["video"] = name;
  json["clip"] = {{"format", plan.info.format}, {"width", plan.info.width}, {"height", plan.info.height},
                  {"frames", plan.info.frames}, {"fps", plan.info.fps},     {"seconds", plan.info.duration_s}};
  json["frames"] = plan.frames();
  json["frame_size"] = {{"height", plan.sizes.slow.height}, {"width", plan.sizes.slow.width}};
  json["tokens_per_frame"] = plan.tokens_per_frame;
  if (plan.may_be_fast) {
    json["fast_frame_size"] = {{"height", plan.sizes.fast.height}, {"width", plan.sizes.fast.width}};
    json["fast_tokens_per_frame"] = plan.fast_tokens_per_frame;
    json["tokens_least"] = plan.tokens_least();
  }
  json["tokens"] = plan.tokens();
  json["context"] = config.text.positions_max;
  json["fits_context"] = plan.tokens() <= config.text.positions_max;
  json["memory"] = {{"kv_cache_bytes", kv * n},
                    {"frames_bytes", 3 * plan.frames() * plan.sizes.slow.height * plan.sizes.slow.width},
                    {"features_bytes", 4.0 * n * config.text.hidden}};
  json["seconds"] = {{"decode", plan.decode_seconds}, {"vision", vision / speed}, {"prefill", prefill / speed}};
  return json;
}

void print(const OrderedJson& json) {
  const auto row = [](std::string_view name, const std::string& value) { fmt::print("{:<14}{}\n", name, value); };
  const auto megabytes = [](const OrderedJson& bytes) { return fmt::format("{:.1f} MB", bytes.get<double>() / 1e6); };
  const auto size = [](const OrderedJson& of) {
    return fmt::format("{} x {} (height x width)", of["height"].get<int64_t>(), of["width"].get<int64_t>());
  };
  const OrderedJson& clip = json["clip"];
  row("video", json["video"]);
  row("clip", fmt::format("{}, {} x {} (height x width), {} frames, {:.3f} a second, {:.1f} s",
                          clip["format"].get<std::string>(), clip["height"].get<int>(), clip["width"].get<int>(),
                          clip["frames"].get<int64_t>(), clip["fps"].get<double>(), clip["seconds"].get<double>()));
  row("frames seen", fmt::format("{}", json["frames"].get<int64_t>()));
  row("frame", fmt::format("{}, {} tokens", size(json["frame_size"]), json["tokens_per_frame"].get<int64_t>()));
  std::string tokens = fmt::format("{}", json["tokens"].get<int64_t>());
  if (json.contains("fast_frame_size")) {
    row("fast frame",
        fmt::format("{}, {} tokens", size(json["fast_frame_size"]), json["fast_tokens_per_frame"].get<int64_t>()));
    tokens +=
        fmt::format(" if all frames are slow, {} if all but the first are fast", json["tokens_least"].get<int64_t>());
  }
  row("tokens", fmt::format("{}; the context holds {}{}", tokens, json["context"].get<int64_t>(),
                            json["fits_context"].get<bool>() ? "" : ": too many"));
  const OrderedJson& memory = json["memory"];
  row("memory", fmt::format("KV cache {}, frames {}, features {}", megabytes(memory["kv_cache_bytes"]),
                            megabytes(memory["frames_bytes"]), megabytes(memory["features_bytes"])));
  const OrderedJson& seconds = json["seconds"];
  row("time, about",
      fmt::format("decode {:.1f} s, vision encoder {:.1f} s, prompt {:.1f} s", seconds["decode"].get<double>(),
                  seconds["vision"].get<double>(), seconds["prefill"].get<double>()));
}

Result<void> run(const Flags& flags) {
  const std::stop_token stop = interrupt_token();
  KEYE_TRY(const Path folder, model_folder(flags.folder));
  KEYE_TRY(const auto config, engine::read_folder_config(folder));
  KEYE_TRY(const prompt::VideoPolicy policy, video_policy(folder, config.model));
  KEYE_TRY(const auto images, prompt::ImageProcessor::load(folder));
  prompt::VideoRules rules = prompt::VideoProcessor::rules_of(policy, images.config());
  rules.adaptive = flags.video.adaptive;
  const prompt::VideoProcessor processor(images, rules);
  KEYE_TRY(const double speed, engine::product_speed(flags.model.device, flags.model.dtype()));
  media::VideoDecoder decoder({});
  OrderedJson all = OrderedJson::array();
  for (const prompt::VideoReference& video : flags.video.references()) {
    const auto plan = make_plan(video, processor, command_access(decoder, flags.video, stop));
    if (!plan) return about(video.sources[0], plan.error());
    all.push_back(to_json(*plan, media::shown_reference(video.sources[0]), config.model, flags.model.dtype(), speed));
  }
  if (flags.as_json) return write_stdout(all.dump(1) + "\n");
  for (const OrderedJson& plan : all) print(plan);
  return {};
}

}  // namespace

int cmd_video_plan(int argc, char** argv) {
  CLI::App app(
      "Shows what a video will cost: which frames are seen, at what size, tokens, memory, and about how long it takes",
      "video-plan");
  Flags flags;
  app.add_option("--model", flags.folder, "checkpoint folder (default: the model that comes with the program)");
  flags.video.add(app);
  app.add_flag("--json", flags.as_json, "print a list with one object for each video");
  flags.model.add(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (!flags.video.any()) return usage_error("video-plan", "give --video or --frames");
  const auto done = run(flags);
  return done ? kExitOk : report("video-plan", done.error());
}

}  // namespace keye::cli
