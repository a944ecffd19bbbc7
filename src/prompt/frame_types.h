// Slow and fast frames: which frames of a video resemble the last slow one.
// Source: the video processor of the published Keye-VL-1.5 code.
#pragma once

#include <cstdint>
#include <vector>

#include "media/image.h"

namespace keye::prompt {

inline constexpr double kMinFrameSimilarity = 0.9;

/// Hue (0 to 179), saturation and value of every pixel, as OpenCV computes them on bytes: hsv is [height, width, 3].
media::Image hsv_of(const media::Image& rgb);

/// The share of 28 x 28 tiles of two pictures of hue, saturation and value whose cosine similarity is over 0.7. Tiles
/// that are black in both do not count; NaN if none counts. Both have the same size, sides whole multiples of 28.
float frame_similarity(const media::Image& a, const media::Image& b);

/// Takes the frames of a video in order, at the size at which they are compared.
class FrameClassifier {
 public:
  explicit FrameClassifier(double threshold) : threshold_(threshold) {}
  /// True: a fast frame, which resembles the last slow one. The first is slow.
  bool is_fast(const media::Image& rgb);

 private:
  double threshold_;
  media::Image last_slow_;
};

}  // namespace keye::prompt
