#include "engine/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "engine/runner.h"
#include "model/shapes.h"
#include "ops/cpu/limits.h"

namespace keye::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The sequences of a bench: token ids that walk over the vocabulary, positions in order, pages one after another.
struct Sequences {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<std::vector<int32_t>> pages;

  Sequences(int batch, int length, int vocab) {
    uint64_t state = 1;
    for (int i = 0; i < length; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab)));
      positions.push_back(i);
    }
    const int each = static_cast<int>(ops::pages_for(length));
    for (int s = 0; s < batch; ++s) {
      pages.emplace_back(static_cast<size_t>(each));
      std::iota(pages.back().begin(), pages.back().end(), s * each);
    }
  }

  SequenceStep step(int sequence, int first, int count, SequenceStep::Logits logits) const {
    const auto begin = static_cast<size_t>(first);
    const auto size = static_cast<size_t>(count);
    const auto position = std::span(positions).subspan(begin, size);
    return {.tokens = std::span(tokens).subspan(begin, size),
            .positions = {position, position, position},
            .context = first,
            .pages = pages[static_cast<size_t>(sequence)],
            .features = {},
            .logits = logits};
  }
};

BenchPhase measure_vision(model::Model& model, const BenchOptions& options) {
  const model::VisionConfig& vision = *model.config().vision;
  const model::VisionGrid picture{options.image_height / vision.patch, options.image_width / vision.patch};
  const std::vector<model::VisionGrid> grid(static_cast<size_t>(options.frames), picture);
  const int patches = options.frames * picture.patches();
  Tensor pixels(DType::f32, {patches, int64_t{vision.channels} * vision.patch * vision.patch});
  for (int64_t i = 0; i < pixels.shape().elements(); ++i)
    pixels.as<float>()[i] = static_cast<float>(i % 255) / 127.5F - 1.0F;
  Tensor features = model.backend().tensor(
      DType::f32, {options.frames * model::merged_tokens(picture, vision.merge), model.config().text.hidden});
  std::vector<double> seconds;
  for (int i = 0; i <= options.repeat; ++i) {
    const auto start = Clock::now();
    model.encode_vision(pixels.view(), grid, features.view());
    uint8_t last = 0;
    model.backend().read({features.view().data, DType::u8, {1}}, &last);  // waits for the device
    if (i > 0) seconds.push_back(seconds_since(start));                   // the first one also allocates
  }
  return {.seconds = median(seconds),
          .tokens = static_cast<double>(patches),
          .flops = options.frames * model::vision_flops(vision, model.config().text.hidden, picture.patches()),
          .bytes = 0};
}

Result<void> check(const model::Model& model, const BenchOptions& options) {
  auto refuse = [](const char* field, std::string message) -> Result<void> {
    return Error{ErrorCode::invalid_argument, std::move(message), field};
  };
  const model::ModelConfig& config = model.config();
  if (options.prompt < 1 || options.generate < 1) return refuse("prompt, generate", "should be at least 1");
  if (options.prompt + options.generate > config.text.positions_max) {
    return refuse("prompt", fmt::format("{} + {} tokens exceed the context of {}", options.prompt, options.generate,
                                        config.text.positions_max));
  }
  if (options.batch < 1 || options.batch > std::min(model.step_tokens_max(), model.step_logits_max())) {
    return refuse("batch", fmt::format("should be in [1, {}], got {}",
                                       std::min(model.step_tokens_max(), model.step_logits_max()), options.batch));
  }
  if (options.repeat < 1) return refuse("repeat", "should be at least 1");
  if (options.image_height == 0 && options.image_width == 0) return {};
  if (!config.vision) return refuse("image", fmt::format("{} has no vision encoder", config.architecture));
  const int factor = config.vision->patch * config.vision->merge;
  for (const int side : {options.image_height, options.image_width}) {
    if (side < factor || side % factor != 0 || side > 20 * 1024) {
      return refuse("image", fmt::format("sides should be multiples of {} up to 20480, got {}x{}", factor,
                                         options.image_height, options.image_width));
    }
  }
  return {};
}

}  // namespace

void raise_limits(BenchLimits& limits, const DeviceOptions& device, DType dtype) {
  const ops::Isa isa = ops::isa_from_name(device.isa).value();
  ThreadPool pool(device.threads == 0 ? ThreadPool::processors() : device.threads);
  const ops::MachineLimits measured = ops::measure_limits(pool, isa, 1.0);
  limits.read_bytes_per_s = std::max(limits.read_bytes_per_s, measured.read_bytes_per_s);
  limits.peak_flops = std::max(limits.peak_flops, dtype == DType::bf16 ? measured.bf16_flops : measured.f32_flops);
}

Result<double> product_speed(const DeviceOptions& device, DType dtype) {
  constexpr int64_t kRows = 512;
  constexpr int64_t kSide = 2048;
  constexpr int kTimes = 5;
  KEYE_TRY(const auto backend, open_device(device));
  const ops::PackedMatrix w =
      backend->random_matrix({.outputs = kSide, .inputs = kSide, .dtype = dtype, .scale = 0.02F});
  const Tensor x = backend->tensor(dtype, {kRows, kSide});
  Tensor out = backend->tensor(dtype, {kRows, kSide});
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    uint8_t last = 0;
    const auto start = Clock::now();
    ops::linear(*backend, {.x = x.view(), .w = w, .bias = {}, .out = out.view()});
    backend->read({out.view().data, DType::u8, {1}}, &last);  // waits for it
    best = std::max(best, 2.0 * kRows * kSide * kSide / seconds_since(start));
  }
  return best;
}

void raise_limits(BenchLimits& limits, ops::Backend& backend, DType dtype) {
  constexpr int64_t kSide = 8192;
  constexpr int64_t kCopied = int64_t{4} << 30;
  constexpr int kTimes = 8;
  Tensor from = backend.tensor(DType::u8, {kCopied});
  Tensor to = backend.tensor(DType::u8, {kCopied});
  const ops::PackedMatrix w =
      backend.random_matrix({.outputs = kSide, .inputs = kSide, .dtype = dtype, .scale = 0.02F});
  const ops::PackedMatrix x_values =
      backend.random_matrix({.outputs = kSide, .inputs = kSide, .dtype = dtype, .seed = 2});
  const ConstView x{x_values.data.data(), dtype, {kSide, kSide}};
  Tensor out = backend.tensor(dtype, {kSide, kSide});
  const auto seconds = [&](const std::function<void()>& work) {
    uint8_t last = 0;
    const auto wait = [&] { backend.read({to.view().data, DType::u8, {1}}, &last); };
    work();
    wait();
    const auto start = Clock::now();
    for (int i = 0; i < kTimes; ++i) work();
    wait();
    return seconds_since(start) / kTimes;
  };
  const double copying = seconds([&] { backend.copy(to.view().data, from.view().data, kCopied); });
  const double multiplying = seconds([&] { ops::linear(backend, {.x = x, .w = w, .bias = {}, .out = out.view()}); });
  limits.read_bytes_per_s = std::max(limits.read_bytes_per_s, 2.0 * static_cast<double>(kCopied) / copying);
  limits.peak_flops = std::max(limits.peak_flops, 2.0 * kSide * kSide * kSide / multiplying);
}

Result<BenchReport> run_bench(model::Model& model, ops::Backend& backend, const BenchOptions& options,
                              const BenchProgress& progress) {
  KEYE_TRY_VOID(check(model, options));
  BenchReport report;
  report.backend = std::string(backend.name());
  auto say = [&](std::string_view what) {
    if (progress) progress(what);
  };
  say("limits");
  if (options.limits) report.limits = *options.limits;
  const auto measure_limits = [&] {
    if (options.limits) return;
    if (backend.on_host()) return raise_limits(report.limits, options.device, options.dtype);
    raise_limits(report.limits, backend, options.dtype);
  };
  measure_limits();

  const int length = options.prompt + options.generate;
  const Sequences sequences(options.batch, length, model.config().text.vocab);
  model::KvCache cache(model.kv_spec(), options.batch * static_cast<int>(sequences.pages[0].size()), backend);
  Runner runner(model, cache);
  std::vector<double> prefill_seconds;
  std::vector<double> decode_seconds;
  for (int round = 0; round <= options.repeat; ++round) {  // round 0 warms up
    say(round == 0 ? "warm-up" : "prefill");
    const auto prefill_start = Clock::now();
    for (int s = 0; s < options.batch; ++s) {
      for (int first = 0; first < options.prompt;) {
        const int count = std::min(options.prompt - first, model.step_tokens_max());
        const bool is_last = first + count == options.prompt;
        const SequenceStep step =
            sequences.step(s, first, count, is_last ? SequenceStep::Logits::last : SequenceStep::Logits::none);
        runner.step({&step, 1});
        first += count;
      }
    }
    if (round > 0) prefill_seconds.push_back(seconds_since(prefill_start));
    say(round == 0 ? "warm-up" : "decode");
    const auto decode_start = Clock::now();
    std::vector<SequenceStep> batch;
    for (int i = options.prompt; i < length; ++i) {
      batch.clear();
      for (int s = 0; s < options.batch; ++s) batch.push_back(sequences.step(s, i, 1, SequenceStep::Logits::last));
      runner.step(batch);
    }
    if (round > 0) decode_seconds.push_back(seconds_since(decode_start));
  }
  if (options.image_height > 0) {
    say("vision");
    report.vision = measure_vision(model, options);
  }
  say("limits");
  measure_limits();

  const model::StepCost cost = model::step_cost(model.config(), options.dtype);
  const double prompt = options.prompt;
  const double generate = options.generate;
  const double batch = options.batch;
  const double steps = std::ceil(prompt / model.step_tokens_max());
  report.prefill = {.seconds = median(prefill_seconds),
                    .tokens = batch * prompt,
                    .flops = batch * (prompt * cost.matmul_flops_per_token + cost.head_flops +
                                      cost.attention_flops_per_key * prompt * (prompt + 1) / 2),
                    .bytes = batch * steps * cost.weight_bytes(prompt / steps)};
  const double keys = generate * prompt + generate * (generate + 1) / 2;  // that all decoded tokens of a sequence see
  report.decode = {.seconds = median(decode_seconds),
                   .tokens = batch * generate,
                   .flops = batch * (generate * (cost.matmul_flops_per_token + cost.head_flops) +
                                     cost.attention_flops_per_key * keys),
                   .bytes = generate * cost.weight_bytes(batch) +
                            batch * keys * static_cast<double>(model.kv_spec().bytes_per_token())};
  return report;
}

}  // namespace keye::engine
