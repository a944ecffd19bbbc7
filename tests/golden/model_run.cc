#include "golden/model_run.h"

#include <algorithm>
#include <numeric>

#include "golden/golden_case.h"
#include "ops/cpu/isa.h"

namespace keye::golden {
namespace {

int pages_for(size_t tokens) { return (static_cast<int>(tokens) + ops::kPageTokens - 1) / ops::kPageTokens; }

Captured capture(ConstView value) {
  Captured captured{value.shape, {}};
  const auto count = static_cast<size_t>(value.elements());
  captured.values.reserve(count);
  if (value.dtype == DType::i32) {
    captured.values.assign(value.as<int32_t>(), value.as<int32_t>() + count);
  } else {
    std::vector<float> floats(count);
    convert_to_float(value.dtype, value.data, floats.data(), count);
    captured.values.assign(floats.begin(), floats.end());
  }
  return captured;
}

}  // namespace

std::vector<Setting> settings() {
  std::vector<Setting> all;
#ifdef KEYE_CUDA_DEVICE_TEST
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::string& kind : kinds()) all.push_back({kind, dtype, "cuda"});
  }
  return all;
#endif
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    if (!ops::isa_from_name(isa)) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::string& kind : kinds()) all.push_back({kind, dtype, isa});
    }
  }
  return all;
}

engine::DeviceOptions Setting::device(int threads) const {
  engine::DeviceOptions options;
  options.threads = threads;
  if (isa == "cuda") {
    options.device = isa;
  } else {
    options.isa = isa;
  }
  return options;
}

std::string setting_name(const Setting& setting) {
  return identifier(fmt::format("{}_{}_{}", setting.kind, dtype_name(setting.dtype), setting.isa));
}

ModelRun::ModelRun(const engine::LoadedModel& loaded, const prompt::Prompt& prompt, int tokens_max)
    : model_(*loaded.model),
      prompt_(prompt),
      pages_(static_cast<size_t>(pages_for(static_cast<size_t>(tokens_max)))),
      cache_(model_.kv_spec(), static_cast<int>(pages_.size()), model_.backend()),
      runner_(model_, cache_) {
  std::iota(pages_.rbegin(), pages_.rend(), 0);  // backwards: order of pages must not matter
  model_.set_probe([this](std::string_view name, int layer, ConstView value) {
    // Pictures are encoded one by one; the goldens hold the first one's values.
    record_.tensors.try_emplace(fmt::format("{}.{}", name, layer), capture(value));
  });
  pictures_ = engine::encode_pictures(model_, loaded.prompts->image_processor(), prompt, {});
  model_.set_probe({});
}

PassRecord ModelRun::pass() {
  model_.set_probe([this](std::string_view name, int layer, ConstView value) {
    record_.tensors[fmt::format("{}.{}", name, layer)] = capture(value);
  });
  engine::SequenceStep step =
      engine::prompt_step(prompt_, 0, static_cast<int64_t>(prompt_.tokens.size()), pages_, pictures_.placed);
  step.logits = engine::SequenceStep::Logits::last;
  const ConstView logits = runner_.step({&step, 1});
  model_.set_probe({});
  record_.last_logits.assign(logits.as<float>(), logits.as<float>() + logits.elements());
  return record_;
}

std::vector<GreedyStep> ModelRun::greedy(const std::vector<float>& first_logits, int count) {
  std::vector<GreedyStep> steps;
  std::vector<float> logits = first_logits;
  auto length = static_cast<int32_t>(prompt_.tokens.size());
  while (true) {
    const auto best = std::max_element(logits.begin(), logits.end());
    steps.push_back({static_cast<int32_t>(best - logits.begin()), *best});
    if (static_cast<int>(steps.size()) == count) return steps;
    const int32_t position = length + prompt_.position_delta;
    const std::span<const int32_t> positions(&position, 1);
    const engine::SequenceStep step{.tokens = {&steps.back().token, 1},
                                    .positions = {positions, positions, positions},
                                    .context = length++,
                                    .pages = pages_,
                                    .features = {},
                                    .logits = engine::SequenceStep::Logits::last};
    const ConstView row = runner_.step({&step, 1});
    logits.assign(row.as<float>(), row.as<float>() + row.elements());
  }
}

std::vector<std::vector<float>> run_batch(const engine::LoadedModel& loaded, const std::vector<Slice>& slices) {
  model::Model& model = *loaded.model;
  const size_t count = slices.size();
  size_t longest = 0;
  for (const Slice& slice : slices) longest = std::max(longest, slice.prompt->tokens.size());
  std::vector<engine::EncodedPictures> pictures;
  std::vector<std::vector<int32_t>> pages(count);
  for (size_t i = 0; i < count; ++i) {
    pictures.push_back(engine::encode_pictures(model, loaded.prompts->image_processor(), *slices[i].prompt, {}));
    for (int page = 0; page < pages_for(longest); ++page)
      pages[i].push_back(static_cast<int32_t>(static_cast<size_t>(page) * count + i));
  }
  model::KvCache cache(model.kv_spec(), pages_for(longest) * static_cast<int>(count), model.backend());
  engine::Runner runner(model, cache);
  std::vector<std::vector<float>> logits(count);
  std::vector<size_t> done(count, 0);
  for (size_t round = 0;; ++round) {
    std::vector<engine::SequenceStep> batch;
    std::vector<size_t> members;
    for (size_t i = 0; i < count; ++i) {
      const Slice& slice = slices[i];
      const size_t left = slice.prompt->tokens.size() - done[i];
      if (left == 0) continue;
      const size_t size = std::min(left, static_cast<size_t>(slice.sizes[std::min(round, slice.sizes.size() - 1)]));
      batch.push_back(engine::prompt_step(*slice.prompt, static_cast<int64_t>(done[i]), static_cast<int64_t>(size),
                                          pages[i], pictures[i].placed));
      batch.back().logits = engine::SequenceStep::Logits::all;
      members.push_back(i);
      done[i] += size;
    }
    if (batch.empty()) return logits;
    const float* row = runner.step(batch).as<float>();
    for (size_t m = 0; m < members.size(); ++m) {
      const size_t values = batch[m].tokens.size() * static_cast<size_t>(model.config().text.vocab);
      logits[members[m]].insert(logits[members[m]].end(), row, row + values);
      row += values;
    }
  }
}

}  // namespace keye::golden
