#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// The two grid lines around sample i of n, and how far it lies from the first towards the second.
struct Tap {
  int64_t low;
  int64_t high;
  float fraction;
};

Tap tap(int64_t side, int64_t i, int64_t n) {
  const float ratio = static_cast<float>(side) / static_cast<float>(n);
  const float source = std::max((static_cast<float>(i) + 0.5F) * ratio - 0.5F, 0.0F);
  const int64_t low = std::min(static_cast<int64_t>(source), side - 1);
  return {low, std::min(low + 1, side - 1), source - static_cast<float>(low)};
}

}  // namespace

void RefBackend::do_add_position_grid(const AddPositionGrid& op) {
  const int64_t c = op.table.shape[1];
  const int64_t side = std::llround(std::sqrt(static_cast<double>(op.table.shape[0])));
  const auto at = [&](int64_t row, int64_t col) { return op.table.as<float>() + (row * side + col) * c; };
  for (int64_t r = 0; r < op.rows; ++r) {
    const Tap y = tap(side, r, op.rows);
    for (int64_t col = 0; col < op.cols; ++col) {
      const Tap x = tap(side, col, op.cols);
      float* out = op.x.as<float>() + (r * op.cols + col) * c;
      for (int64_t i = 0; i < c; ++i) {
        const float upper = at(y.low, x.low)[i] * (1.0F - x.fraction) + at(y.low, x.high)[i] * x.fraction;
        const float lower = at(y.high, x.low)[i] * (1.0F - x.fraction) + at(y.high, x.high)[i] * x.fraction;
        out[i] += upper * (1.0F - y.fraction) + lower * y.fraction;
      }
    }
  }
}

void RefBackend::do_merge_patches(const MergePatches& op) {
  // The patches of one row of a block lie side by side in x and in out.
  const int64_t strip = op.merge * op.x.shape[1];
  const int64_t strips_per_row = op.cols / op.merge;
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < strips_per_row; ++i) {
      const int64_t block = (row / op.merge) * strips_per_row + i;
      std::memcpy(op.out.as<float>() + (block * op.merge + row % op.merge) * strip,
                  op.x.as<float>() + (row * strips_per_row + i) * strip, static_cast<size_t>(strip) * sizeof(float));
    }
  }
}

}  // namespace keye::ops
