#include "media/image.h"

#include "base/check.h"

namespace keye::media {

Image::Image(int height_, int width_) : height(height_), width(width_) {
  KEYE_CHECK(height > 0 && width > 0, "a picture of {}x{}", height, width);
  rgb.resize(static_cast<size_t>(height) * row_bytes());
}

Result<void> check_size(int64_t height, int64_t width, const MediaLimits& limits) {
  if (height < 1 || width < 1) {
    return make_error(ErrorCode::corrupt_data, "picture", "its header says {} x {} pixels (width x height)", width,
                      height);
  }
  if (height > limits.side_max || width > limits.side_max) {
    return make_error(ErrorCode::too_large, "picture",
                      "{} x {} pixels (width x height): a side is over the limit of {}", width, height,
                      limits.side_max);
  }
  if (height * width > limits.pixels_max) {
    return make_error(ErrorCode::too_large, "picture", "{} x {} is {} pixels, over the limit of {}", width, height,
                      height * width, limits.pixels_max);
  }
  return {};
}

}  // namespace keye::media
