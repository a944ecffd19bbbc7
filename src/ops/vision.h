// The parts of the vision encoder that are not shared with the decoder.
#pragma once

#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// x[r * cols + c] += the learned grid sampled at (r, c): bilinear, half-pixel centres, clamped at the edges.
///   table  [side * side, c] f32     x  [rows * cols, c] f32
/// For output i of n: s = max(0, (i + 0.5) side / n - 0.5), between floor(s) and min(floor(s) + 1, side - 1).
struct AddPositionGrid {
  ConstView table;
  int rows;
  int cols;
  View x;
};
void add_position_grid(Backend& backend, const AddPositionGrid& op);

/// Concatenates each merge x merge block of patches, row by row inside the block, blocks in raster order.
///   x  [rows * cols, c] f32     out  [rows * cols / merge^2, merge^2 c] f32
struct MergePatches {
  ConstView x;
  int rows;
  int cols;
  int merge;
  View out;
};
void merge_patches(Backend& backend, const MergePatches& op);

}  // namespace keye::ops
