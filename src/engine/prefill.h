// The prompt's way through the model: pictures first, then tokens in chunks.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "engine/runner.h"
#include "prompt/prompt.h"

namespace keye::engine {

/// done and total of a long part, by name ("vision", "prefill").
using Progress = std::function<void(std::string_view part, int64_t done, int64_t total)>;

/// The vision features of a prompt's pictures, and where they stand. `images` cuts them; it may be null if there are
/// none.
struct EncodedPictures {
  Tensor features;                     // [sum of tokens, hidden] f32
  std::vector<PlacedFeatures> placed;  // views into features
};
EncodedPictures encode_pictures(model::Model& model, const prompt::ImageProcessor* images, const prompt::Prompt& prompt,
                                const Progress& progress);

/// The part of a prompt [first, first + count) as a step of its sequence.
SequenceStep prompt_step(const prompt::Prompt& prompt, int64_t first, int64_t count, std::span<const int32_t> pages,
                         std::span<const PlacedFeatures> features);

/// logits [n, vocab] f32 of all tokens of the prompt, `chunk` tokens a step. The result does not depend on the chunk.
/// Errors: too_large (over the model's context).
Result<Tensor> all_logits(model::Model& model, const prompt::ImageProcessor* images, const prompt::Prompt& prompt,
                          int chunk, const Progress& progress);

}  // namespace keye::engine
