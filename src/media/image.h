// Pictures in memory, and the limits under which bytes from outside become pictures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace keye::media {

/// RGB, 8 bits a channel, row-major: rgb is [height, width, 3].
struct Image {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> rgb;

  Image() = default;
  /// A black picture. Both sides are at least 1.
  Image(int height_, int width_);

  uint8_t* row(int y) { return rgb.data() + static_cast<size_t>(y) * row_bytes(); }
  const uint8_t* row(int y) const { return rgb.data() + static_cast<size_t>(y) * row_bytes(); }
  size_t row_bytes() const { return static_cast<size_t>(width) * 3; }
};

/// What a picture from outside may cost. Each is checked before the memory it bounds is asked for.
struct MediaLimits {
  /// Encoded bytes: a file, or a data URI's payload.
  size_t bytes_max = size_t{64} << 20;
  /// Height times width as the header declares it. PIL refuses pictures above the same number. A decoded pixel takes 3
  /// bytes; while it is decoded up to 8 more (a progressive JPEG's coefficients, a WebP animation's canvases).
  int64_t pixels_max = 178'956'970;
  /// Either side.
  int side_max = 1'000'000;
};

/// Errors: corrupt_data (a side of zero), too_large.
Result<void> check_size(int64_t height, int64_t width, const MediaLimits& limits);

}  // namespace keye::media
