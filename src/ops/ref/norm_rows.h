// One row of a normalisation, for the references that need it as a step.
#pragma once

#include <cstdint>

namespace keye::ops {

/// Every row sum of the norms goes into this many lanes, element i into lane i % 64, in order of i; then the upper half
/// of the lanes is added to the lower half until one is left. So the order depends on the row's width alone, is the
/// same at every register width, and loses about 6 bits less than a running sum.
inline constexpr int kSumLanes = 64;

/// out may be x.
void rms_norm_row(const float* x, const float* weight, float eps, int64_t c, float* out);
void layer_norm_row(const float* x, const float* weight, const float* bias, float eps, int64_t c, float* out);

}  // namespace keye::ops
