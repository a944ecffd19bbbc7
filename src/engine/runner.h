// Carries out one step: gathers the ragged batch into the model's input, runs it, hands back the logits.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/model.h"

namespace keye::engine {

/// A picture's features at a place in a sequence.
struct PlacedFeatures {
  ConstView features;       // [tokens, hidden] f32, in the backend's memory
  int32_t first_token = 0;  // sequence index of the first of them
};

/// One sequence's part of a step: `tokens` new ones at indices [context, context + tokens).
struct SequenceStep {
  std::span<const int32_t> tokens;
  std::array<std::span<const int32_t>, 3> positions;  // of the new tokens
  int32_t context = 0;
  std::span<const int32_t> pages;            // of the whole sequence, new tokens included
  std::span<const PlacedFeatures> features;  // of the whole sequence; those outside the new tokens are skipped
  enum class Logits { none, last, all } logits = Logits::last;
};

class Runner {
 public:
  /// Both must outlive the runner.
  Runner(model::Model& model, model::KvCache& cache);

  /// Logits [rows, vocab] f32, in the host's memory, in the order of the sequences, valid until the next step. The
  /// batch must fit model.step_tokens_max() tokens and model.step_logits_max() rows.
  ConstView step(std::span<const SequenceStep> batch);

 private:
  model::Model& model_;
  model::KvCache& cache_;
  Tensor logits_;       // in the backend's memory
  Tensor host_logits_;  // where that is not the host's
  std::vector<int32_t> tokens_, slots_, logits_rows_;
  std::array<std::vector<int32_t>, 3> positions_;
  std::vector<ops::SequenceRows> sequences_;
  std::vector<std::vector<int32_t>> vision_indices_;  // for each entry of vision_: its `from`, then its `rows`
  std::vector<model::VisionRows> vision_;
};

}  // namespace keye::engine
