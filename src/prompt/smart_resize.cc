#include "prompt/smart_resize.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace keye::prompt {
namespace {

/// Python's round(): ties to even, as the default rounding mode has it.
int64_t nearest(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

int64_t nearest_multiple(int64_t side, int factor) { return nearest(static_cast<double>(side) / factor) * factor; }

Result<void> check_ratio(int64_t height, int64_t width) {
  const double ratio = static_cast<double>(std::max(height, width)) / static_cast<double>(std::min(height, width));
  if (ratio > kAspectRatioMax) {
    return make_error(ErrorCode::invalid_argument, "picture",
                      "an aspect ratio of {:.6g} ({} x {} pixels, width x height), the limit is {}", ratio, width,
                      height, kAspectRatioMax);
  }
  return {};
}

/// Scales to within the limits where the `rounded` size is outside them.
PixelSize fit(int64_t height, int64_t width, PixelSize rounded, int factor, double min_pixels, double max_pixels) {
  const double area = static_cast<double>(rounded.height * rounded.width);
  const double pixels = static_cast<double>(height * width);
  const double h = static_cast<double>(height);
  const double w = static_cast<double>(width);
  if (area > max_pixels) {
    const double beta = std::sqrt(pixels / max_pixels);
    return {static_cast<int64_t>(std::floor(h / beta / factor)) * factor,
            static_cast<int64_t>(std::floor(w / beta / factor)) * factor};
  }
  if (area < min_pixels) {
    const double beta = std::sqrt(min_pixels / pixels);
    return {static_cast<int64_t>(std::ceil(h * beta / factor)) * factor,
            static_cast<int64_t>(std::ceil(w * beta / factor)) * factor};
  }
  return rounded;
}

}  // namespace

Result<PixelSize> server_resize(int64_t height, int64_t width, int factor, double min_pixels, double max_pixels) {
  KEYE_CHECK(height > 0 && width > 0 && factor > 0, "{} x {} by {}", height, width, factor);
  KEYE_TRY_VOID(check_ratio(height, width));
  const int64_t least = factor;
  const PixelSize rounded{std::max(least, nearest_multiple(height, factor)),
                          std::max(least, nearest_multiple(width, factor))};
  const PixelSize fitted = fit(height, width, rounded, factor, min_pixels, max_pixels);
  return PixelSize{std::max(least, fitted.height), std::max(least, fitted.width)};
}

Result<PixelSize> processor_resize(int64_t height, int64_t width, int factor, double min_pixels, double max_pixels) {
  KEYE_CHECK(height > 0 && width > 0 && factor > 0, "{} x {} by {}", height, width, factor);
  if (height < factor) {
    width = nearest(static_cast<double>(width * factor) / static_cast<double>(height));
    height = factor;
  }
  if (width < factor) {
    height = nearest(static_cast<double>(height * factor) / static_cast<double>(width));
    width = factor;
  }
  KEYE_TRY_VOID(check_ratio(height, width));
  const PixelSize rounded{nearest_multiple(height, factor), nearest_multiple(width, factor)};
  return fit(height, width, rounded, factor, min_pixels, max_pixels);
}

}  // namespace keye::prompt
