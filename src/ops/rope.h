// Rotary position tables.
#pragma once

#include <array>
#include <cstdint>

#include "ops/indices.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// cos and sin [n, p] f32 of positions[axis(i)][t] * inv_freq[i], where pair i belongs to the axis whose section holds
/// it: the first sections[0] pairs to axis 0 (time), then sections[1] to axis 1 (height), sections[2] to axis 2
/// (width).
///   positions  three rows of n (time, height, width)     inv_freq  [p] f32     sections  sum to p
/// The angle is the f32 product; its cosine and sine are accurate to f32 at any position.
struct RopeTable {
  std::array<Indices, 3> positions;
  ConstView inv_freq;
  std::array<int, 3> sections;
  View cos;
  View sin;
};
void rope_table(Backend& backend, const RopeTable& op);

}  // namespace keye::ops
