// What rank 0 tells the other ranks to do, as bytes: a kind, counts, then numbers as this machine stores them.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/model.h"

namespace keye::engine {

enum class MessageKind : int32_t {
  step = 1,          // run the decoder
  begin_vision = 2,  // take your share of these pictures
  advance_vision = 3,
  end = 4,
};

using Message = std::vector<std::byte>;

/// `cache_pages`: of rank 0's cache, that the others' be as large. The rows of vision features that the step needs go
/// with it. Overwrites `to`, whose memory is used again.
void write_step(const model::StepInput& input, int cache_pages, Message& to);
void write_vision(ConstView pixels, std::span<const model::VisionGrid> grids, Message& to);
void write_plain(MessageKind kind, Message& to);

/// Errors: corrupt_data (too short, an unknown kind).
Result<MessageKind> message_kind(std::span<const std::byte> message);

/// A step, and the memory that its numbers lie in.
class ReceivedStep {
 public:
  /// Errors: corrupt_data (counts that contradict each other or the length).
  Result<void> read(std::span<const std::byte> message, int64_t hidden);
  /// Valid until the next read().
  const model::StepInput& input() const { return input_; }
  int cache_pages() const { return cache_pages_; }

 private:
  model::StepInput input_;
  int cache_pages_ = 0;
  std::vector<int32_t> numbers_;
  std::vector<float> features_;
  std::vector<int32_t> feature_order_;  // 0, 1, ...
  std::vector<ops::SequenceRows> sequences_;
  std::vector<model::VisionRows> vision_;
};

/// Pictures for the vision encoder.
struct ReceivedVision {
  std::vector<model::VisionGrid> grids;
  std::span<const std::byte> pixels;  // [patches, ...] f32, within the message
  int64_t patch_values = 0;           // of one patch
};
/// Errors: corrupt_data.
Result<ReceivedVision> read_vision(std::span<const std::byte> message);

}  // namespace keye::engine
