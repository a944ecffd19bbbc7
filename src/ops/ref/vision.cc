#include <cstring>

#include "ops/ref/grid_tap.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {

void RefBackend::do_add_position_grid(const AddPositionGrid& op) {
  const int64_t c = op.table.shape[1];
  const int64_t side = grid_side(op.table.shape[0]);
  const auto at = [&](int64_t row, int64_t col) { return op.table.as<float>() + (row * side + col) * c; };
  for (int64_t r = 0; r < op.rows; ++r) {
    const GridTap y = grid_tap(side, r, op.rows);
    for (int64_t col = 0; col < op.cols; ++col) {
      const GridTap x = grid_tap(side, col, op.cols);
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
