// Products of few rows on Hopper.
#pragma once

#include "ops/cuda/gemm_kernels.h"

namespace keye::ops::cuda {

/// gemm_bf16()'s sums at the speed of the memory; every matrix followed by its map (gemm_wgmma.h).
void gemm_few(Stream stream, const GemmArguments& a);

}  // namespace keye::ops::cuda
