// The activation functions of matrix products. Roundings are spelled out, so that every kernel gives the same bits.
#pragma once

#include "ops/activation.h"
#include "ops/cuda/simt.h"

namespace keye::ops::cuda {

// z / (1 + exp(-u))
__device__ __forceinline__ float logistic_times(float z, float u) { return __fdividef(z, __fadd_rn(1.0F, expf(-u))); }
__device__ __forceinline__ float silu(float z) { return logistic_times(z, z); }
// 0.5 z (1 + tanh(v)) is z / (1 + exp(-2 v)).
__device__ __forceinline__ float gelu_tanh(float z) {
  constexpr float kTwiceRoot = 1.5957691216057308F;  // 2 sqrt(2 / pi)
  const float cubic = __fmul_rn(__fmul_rn(z, z), 0.044715F);
  return logistic_times(z, __fmul_rn(kTwiceRoot, __fmaf_rn(z, cubic, z)));
}
__device__ __forceinline__ float gelu_erf(float z) {
  const float half = __fmul_rn(0.5F, z);
  return __fmaf_rn(half, erff(__fmul_rn(z, 0.70710678118654752F)), half);
}

}  // namespace keye::ops::cuda
