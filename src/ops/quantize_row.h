// Rounding one row of floats to few bits: what the cache's quantised planes and the indexer hold.
#pragma once

#include "tensor/dtype.h"

namespace keye::ops {

/// codes[i] * scale is near x[i], for `dim` finite numbers. The scale is the largest |x| over the largest code (i8:
/// 127, f8_e4m3: 448), and 0 where all are 0; i8 codes are rounded to nearest even.
void quantize_row(DType dtype, const float* x, int dim, void* codes, float* scale);

/// Rounds each x[i] to e4m3 at the power-of-two scale 2^ceil(log2(max(1e-4, largest |x|) / 448)), in place: the
/// arithmetic of the published indexer. The results have 4 bits of mantissa, and so are bf16 numbers, too.
void round_row_to_f8(float* x, int dim);

}  // namespace keye::ops
