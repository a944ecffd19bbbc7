// Where a resized grid is sampled.
#pragma once

#include <algorithm>
#include <cstdint>

namespace keye::ops {

/// The two grid lines around output i of n, and how far it lies from the first towards the second. f32 arithmetic: the
/// bits that PyTorch gets.
struct GridTap {
  int64_t low;
  int64_t high;
  float fraction;
};

inline GridTap grid_tap(int64_t side, int64_t i, int64_t n) {
  const float ratio = static_cast<float>(side) / static_cast<float>(n);
  const float source = std::max((static_cast<float>(i) + 0.5F) * ratio - 0.5F, 0.0F);
  const int64_t low = std::min(static_cast<int64_t>(source), side - 1);
  return {low, std::min(low + 1, side - 1), source - static_cast<float>(low)};
}

/// The side of a square grid of `cells` cells.
inline int64_t grid_side(int64_t cells) {
  int64_t side = 0;
  while (side * side < cells) ++side;
  return side;
}

}  // namespace keye::ops
