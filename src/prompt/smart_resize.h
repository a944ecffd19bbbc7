// To which size a picture is brought before it is cut into patches.
// Source: the serving code of the published Keye-VL models (first resize) and the image processor of the public
// Keye-VL-8B-Preview checkpoint (second resize).
#pragma once

#include <cstdint>

#include "base/result.h"

namespace keye::prompt {

inline constexpr int kAspectRatioMax = 200;
/// A picture's pixels after the first resize, unless a request says otherwise: 4 and 20480 merged tokens of 28x28.
inline constexpr double kServerMinPixels = 4 * 28 * 28;
inline constexpr double kServerMaxPixels = 20480 * 28 * 28;

struct PixelSize {
  int64_t height = 0;
  int64_t width = 0;
};

/// First resize: both sides to the nearest multiple of `factor` (ties to even), at least one; then the whole scaled
/// down (sides cut to multiples) above max_pixels, or up (sides raised to multiples) below min_pixels. The result of
/// scaling down may lie below min_pixels: it is not looked at again. Errors: invalid_argument (aspect ratio over
/// kAspectRatioMax).
Result<PixelSize> server_resize(int64_t height, int64_t width, int factor, double min_pixels, double max_pixels);

/// Second resize: a side shorter than `factor` is first brought to it, the other in proportion; no side is held at one
/// multiple afterwards, so extreme limits give a side of 0. Errors: invalid_argument (aspect ratio).
Result<PixelSize> processor_resize(int64_t height, int64_t width, int factor, double min_pixels, double max_pixels);

}  // namespace keye::prompt
