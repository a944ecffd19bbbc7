// What the products of few rows share: who multiplies what, and what becomes of the sums. Device code.
#pragma once

#include "ops/cuda/activations.h"
#include "ops/cuda/gemm_kernels.h"
#include "ops/cuda/mma.h"

namespace keye::ops::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffU;

__device__ __forceinline__ float activate(float z, Activation activation) {
  if (activation == Activation::gelu_tanh) return gelu_tanh(z);
  if (activation == Activation::gelu_erf) return gelu_erf(z);
  return z;
}

__device__ __forceinline__ void store(const GemmArguments& a, int64_t row, int64_t column, float value) {
  const int64_t at = row * a.columns + column;
  if (a.out_f32) {
    float* out = static_cast<float*>(a.out) + at;
    *out = a.accumulate ? __fadd_rn(*out, value) : value;
  } else {
    static_cast<bf16*>(a.out)[at] = to_bf16(value);
  }
}

/// The rows of out that a block works for, and their matrix.
struct Group {
  const void* w;
  int64_t begin, end;
};

/// The `index`-th group that has rows; {null} if there are fewer. All lanes of a warp call it.
__device__ __forceinline__ Group find_group(const GemmArguments& a, int index) {
  constexpr int kAhead = 4;  // chunks of 32 groups whose offsets are on their way together
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int first = 0; first < a.groups; first += 32 * kAhead) {
    int begins[kAhead];
    int ends[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int e = first + 32 * i + lane;
      begins[i] = e < a.groups ? a.offsets[e] : 0;
      ends[i] = e < a.groups ? a.offsets[e + 1] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const bool has_rows = ends[i] > begins[i];
      const unsigned full = __ballot_sync(kAllLanes, has_rows ? 1 : 0);
      const int count = __popc(full);
      if (index < count) {
        // The lane with `index` full ones before it.
        const bool mine = has_rows && __popc(full & ((1U << lane) - 1U)) == index;
        const int source = __ffs(static_cast<int>(__ballot_sync(kAllLanes, mine ? 1 : 0))) - 1;
        return {a.table[first + 32 * i + source], __shfl_sync(kAllLanes, begins[i], source),
                __shfl_sync(kAllLanes, ends[i], source)};
      }
      index -= count;
    }
  }
  return {nullptr, 0, 0};
}

__device__ __forceinline__ Group group_of_block(const GemmArguments& a) {
  if (a.table != nullptr) return find_group(a, static_cast<int>(blockIdx.y));
  return {a.w, 0, a.n};
}

/// The results of a warp's 16 outputs from `first_output` on, for rows [begin, end): tile t holds rows begin + 8 t ...,
/// outputs as rows (mma.h).
template <int kTiles>
__device__ __forceinline__ void finish_tiles(const GemmArguments& a, const float (&sums)[kTiles][4], int64_t begin,
                                             int64_t end, int64_t first_output) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = begin + 8 * tile + lane % 4 * 2 + i;
      if (row >= end) continue;
      if (a.activation == Activation::silu_mul) {
        const int64_t column = first_output / 2 + lane / 4;
        if (column < a.columns) store(a, row, column, __fmul_rn(silu(sums[tile][i]), sums[tile][i + 2]));
        continue;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t column = first_output + lane / 4 + 8 * half;
        if (column >= a.columns) continue;
        float z = sums[tile][i + 2 * half];
        if (a.bias != nullptr) z = __fadd_rn(z, a.bias[column]);
        store(a, row, column, activate(z, a.activation));
      }
    }
  }
}

}  // namespace keye::ops::cuda
