// Rotation of neighbouring elements, for all who need it as a step.
#pragma once

#include <cstdint>

namespace keye::ops {

/// Rotates the pairs (2 i, 2 i + 1), in place, by cosines and sines that are each multiplied by `scale` first.
inline void rotate_pairs(float* x, const float* cos, const float* sin, float scale, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float c = cos[i] * scale;
    const float s = sin[i] * scale;
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * c - b * s;
    x[2 * i + 1] = b * c + a * s;
  }
}

}  // namespace keye::ops
