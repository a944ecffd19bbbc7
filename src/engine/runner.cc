#include "engine/runner.h"

#include <algorithm>

namespace keye::engine {

Runner::Runner(model::Model& model, model::KvCache& cache) : model_(model), cache_(cache) {
  const auto n = static_cast<size_t>(model.step_tokens_max());
  tokens_.reserve(n);
  slots_.reserve(n);
  sequences_.reserve(n);
  logits_rows_.reserve(static_cast<size_t>(model.step_logits_max()));
  for (auto& axis : positions_) axis.reserve(n);
  const Shape shape{model.step_logits_max(), model.config().text.vocab};
  logits_ = model.backend().tensor(DType::f32, shape);
  if (!model.backend().on_host()) host_logits_ = Tensor(DType::f32, shape);
}

ConstView Runner::step(std::span<const SequenceStep> batch) {
  tokens_.clear();
  slots_.clear();
  sequences_.clear();
  logits_rows_.clear();
  vision_.clear();
  vision_indices_.clear();
  for (auto& axis : positions_) axis.clear();
  for (const SequenceStep& sequence : batch) {
    const auto first = static_cast<int32_t>(tokens_.size());
    const auto count = static_cast<int32_t>(sequence.tokens.size());
    tokens_.insert(tokens_.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (size_t axis = 0; axis < 3; ++axis) {
      positions_[axis].insert(positions_[axis].end(), sequence.positions[axis].begin(), sequence.positions[axis].end());
    }
    for (int32_t i = 0; i < count; ++i) {
      const int32_t index = sequence.context + i;
      const int32_t page = sequence.pages[static_cast<size_t>(index / ops::kPageTokens)];
      slots_.push_back(page * ops::kPageTokens + index % ops::kPageTokens);
      const bool wanted = sequence.logits == SequenceStep::Logits::all ||
                          (sequence.logits == SequenceStep::Logits::last && i + 1 == count);
      if (wanted) logits_rows_.push_back(first + i);
    }
    const int32_t end = sequence.context + count;
    const auto pages = static_cast<size_t>(ops::pages_for(end));
    sequences_.push_back({first, count, sequence.context, sequence.pages.first(pages)});
    for (const PlacedFeatures& placed : sequence.features) {
      const int32_t begin = std::max(sequence.context, placed.first_token);
      const int32_t stop = std::min(end, placed.first_token + static_cast<int32_t>(placed.features.shape[0]));
      if (begin >= stop) continue;
      std::vector<int32_t>& indices = vision_indices_.emplace_back();
      for (int32_t i = begin; i < stop; ++i) indices.push_back(i - placed.first_token);
      for (int32_t i = begin; i < stop; ++i) indices.push_back(first + i - sequence.context);
      vision_.push_back({placed.features, {}, {}});
    }
  }
  for (size_t i = 0; i < vision_.size(); ++i) {
    const std::span<const int32_t> indices = vision_indices_[i];
    vision_[i].from = indices.first(indices.size() / 2);
    vision_[i].rows = indices.subspan(indices.size() / 2);
  }
  KEYE_CHECK(static_cast<int>(tokens_.size()) <= model_.step_tokens_max(), "{} tokens in a step", tokens_.size());
  KEYE_CHECK(static_cast<int>(logits_rows_.size()) <= model_.step_logits_max(), "{} logits rows", logits_rows_.size());
  const View logits = rows(logits_.view(), 0, static_cast<int64_t>(logits_rows_.size()));
  model_.forward({tokens_, {positions_[0], positions_[1], positions_[2]}, vision_, sequences_, slots_, logits_rows_},
                 cache_, logits);
  if (model_.backend().on_host()) return logits;
  const View on_host = rows(host_logits_.view(), 0, logits.shape[0]);
  model_.backend().read(logits, on_host.data);
  return on_host;
}

}  // namespace keye::engine
