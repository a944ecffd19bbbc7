#include "prompt/frame_types.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"

namespace keye::prompt {
namespace {

constexpr int kTile = 28;
constexpr double kTileSimilarity = 0.7;
constexpr double kEpsilon = 1e-8;
constexpr double kBlack = 0.01;

constexpr int kShift = 12;
constexpr int kHalf = 1 << (kShift - 1);

/// Reciprocals with kShift fractional bits.
struct Reciprocals {
  std::array<int, 256> saturation{};
  std::array<int, 256> hue{};

  Reciprocals() {
    for (size_t i = 1; i < 256; ++i) {
      saturation[i] = static_cast<int>(std::nearbyint((255 << kShift) / static_cast<double>(i)));
      hue[i] = static_cast<int>(std::nearbyint((180 << kShift) / (6.0 * static_cast<double>(i))));
    }
  }
};

struct Sums {
  int64_t aa = 0, bb = 0, ab = 0;
};

Sums sums_of_tile(const media::Image& a, const media::Image& b, int top, int left) {
  Sums sums;
  for (int y = 0; y < kTile; ++y) {
    const size_t offset = 3 * static_cast<size_t>(left);
    const uint8_t* first = a.row(top + y) + offset;
    const uint8_t* second = b.row(top + y) + offset;
    int aa = 0;
    int bb = 0;
    int ab = 0;
    for (int i = 0; i < 3 * kTile; ++i) {
      aa += first[i] * first[i];
      bb += second[i] * second[i];
      ab += first[i] * second[i];
    }
    sums.aa += aa;
    sums.bb += bb;
    sums.ab += ab;
  }
  return sums;
}

}  // namespace

media::Image hsv_of(const media::Image& rgb) {
  static const Reciprocals kReciprocals;
  media::Image hsv(rgb.height, rgb.width);
  for (size_t i = 0; i < rgb.rgb.size(); i += 3) {
    const int r = rgb.rgb[i];
    const int g = rgb.rgb[i + 1];
    const int b = rgb.rgb[i + 2];
    const int value = std::max({r, g, b});
    const int spread = value - std::min({r, g, b});
    const int sector = value == r ? g - b : value == g ? b - r + 2 * spread : r - g + 4 * spread;
    const int hue = (sector * kReciprocals.hue[static_cast<size_t>(spread)] + kHalf) >> kShift;
    hsv.rgb[i] = static_cast<uint8_t>(hue < 0 ? hue + 180 : hue);
    hsv.rgb[i + 1] =
        static_cast<uint8_t>((spread * kReciprocals.saturation[static_cast<size_t>(value)] + kHalf) >> kShift);
    hsv.rgb[i + 2] = static_cast<uint8_t>(value);
  }
  return hsv;
}

float frame_similarity(const media::Image& a, const media::Image& b) {
  KEYE_CHECK(a.height == b.height && a.width == b.width && a.height % kTile == 0 && a.width % kTile == 0,
             "{} x {} and {} x {}", a.height, a.width, b.height, b.width);
  int similar = 0;
  int counted = 0;
  for (int top = 0; top < a.height; top += kTile) {
    for (int left = 0; left < a.width; left += kTile) {
      const Sums sums = sums_of_tile(a, b, top, left);
      const double norm_a = std::sqrt(static_cast<double>(sums.aa)) + kEpsilon;
      const double norm_b = std::sqrt(static_cast<double>(sums.bb)) + kEpsilon;
      if (norm_a < kBlack && norm_b < kBlack) continue;
      ++counted;
      if (static_cast<double>(sums.ab) / (norm_a * norm_b) > kTileSimilarity) ++similar;
    }
  }
  // In f32, as the source has it: nine of ten are less than 0.9.
  return static_cast<float>(similar) / static_cast<float>(counted);
}

bool FrameClassifier::is_fast(const media::Image& rgb) {
  media::Image hsv = hsv_of(rgb);
  if (!last_slow_.rgb.empty()) {
    const double similarity = static_cast<double>(frame_similarity(last_slow_, hsv));
    if (!(similarity < threshold_)) return true;  // NaN, too
  }
  last_slow_ = std::move(hsv);
  return false;
}

}  // namespace keye::prompt
