// The loops over one row that have a version for each instruction set. Included by files compiled for that set alone,
// so plain types only: bf16 and f16 elements are uint16_t here.
#pragma once

#include <cstdint>

namespace keye::ops {

/// Each does the reference's arithmetic in the reference's order, and so gives its bits.
struct RowKernels {
  /// A row of c; the result goes to `out` as f32 or, where that is null, to `narrow` as bf16. out may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t c, float* out, uint16_t* narrow);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t c, float* out,
                     uint16_t* narrow);

  void (*widen_bf16)(const uint16_t* x, float* out, int64_t count);
  void (*widen_f16)(const uint16_t* x, float* out, int64_t count);
  void (*narrow_bf16)(const float* x, uint16_t* out, int64_t count);

  /// out[i] += weights[j] * y[places[j]][i], in the order of j; rows of c.
  void (*add_rows)(const float* y, const int32_t* places, const float* weights, int64_t k, int64_t c, float* out);

  /// out[i] += the mix of four corners: [0] and [1] by x into the upper, [2] and [3] into the lower, those two by y.
  void (*add_bilinear)(const float* const corners[4], float x, float y, int64_t c, float* out);

  /// Rotates the pairs (i, i + dim/2), then applies the Hadamard rotation, in place. dim is a power of two, at
  /// least 32. `narrow`: x, cos, sin, and each product, sum and result are rounded to bf16.
  void (*rotate_hadamard)(float* x, const float* cos, const float* sin, int64_t dim, bool narrow);
};

const RowKernels& avx2_row_kernels();
const RowKernels& avx512_row_kernels();

}  // namespace keye::ops
