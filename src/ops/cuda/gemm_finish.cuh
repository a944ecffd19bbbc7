// What follows a product whose sums lie in registers as tensor cores leave them: bias, activation, the way to memory.
// Device code. Roundings are spelled out, so that no compiler fuses them.
#pragma once

#include <cstdint>

#include "ops/activation.h"
#include "ops/cuda/activations.h"

namespace keye::ops::cuda::finish {

struct Results {
  const float* bias;  // [outputs], or null
  void* out;          // [.., columns] f32 or bf16
  int outputs;        // rows of w
  int columns;        // half as many if gated
  Activation activation;
  bool accumulate;  // f32 only
  bool out_f32;
  bool vectors;  // rows of out allow 16-byte (bf16) or 8-byte (f32) accesses; always so if gated
};

constexpr int kStagingBytes = 2048;  // of shared memory per warp: 16 rows of 128 bytes

// What one lane holds of a warp's 16 rows: its two rows are `row` and `row` + 8, its columns begin at `column`.
struct Part {
  int row, column;
};

// `column` counts w's rows here.
template <int kCount>
__device__ __forceinline__ void add_bias(float (&d)[kCount], const Results& results, int column) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const int at = column + 2 * i;
    const float first = at < results.outputs ? __ldg(results.bias + at) : 0.0F;
    const float second = at + 1 < results.outputs ? __ldg(results.bias + at + 1) : 0.0F;
    d[i] = __fadd_rn(d[i], first);
    d[i + 1] = __fadd_rn(d[i + 1], second);
    d[i + 2] = __fadd_rn(d[i + 2], first);
    d[i + 3] = __fadd_rn(d[i + 3], second);
  }
}

// Leaves the results in the first half of d if the matrix is gated.
template <int kCount>
__device__ __forceinline__ void activate(float (&d)[kCount], Activation activation) {
  if (activation == Activation::silu_mul) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const int gate = i / 4 * 8 + i % 4;
      d[i] = __fmul_rn(silu(d[gate]), d[gate + 4]);
    }
  } else if (activation == Activation::gelu_tanh) {
#pragma unroll
    for (float& z : d) z = gelu_tanh(z);
  } else if (activation == Activation::gelu_erf) {
#pragma unroll
    for (float& z : d) z = gelu_erf(z);
  }
}

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  uint32_t two;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}

// The first kUsed sums of d as bf16. A warp turns up to 64 columns at a time in its own shared memory, so that a row's
// lie in neighbouring lanes: chunks of 8 columns (16 bytes), chunk c of row r in place c ^ (r % 8) against bank
// conflicts.
template <int kUsed, int kCount>
__device__ __forceinline__ void store_bf16(const float (&d)[kCount], const Results& results, const Part& part,
                                           int rows_end, unsigned char* staging) {
  constexpr int kChunks = kUsed / 4;
  constexpr int kTurn = kChunks % 8 == 0 ? 8 : (kChunks % 4 == 0 ? 4 : 2);
  static_assert(kChunks % kTurn == 0);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int r = lane / 4;
  const int warp_row = part.row - r;
  const int warp_column = part.column - lane % 4 * 2;
  auto* words = reinterpret_cast<uint32_t*>(staging);
  const auto* pieces = reinterpret_cast<const uint4*>(staging);
#pragma unroll
  for (int first = 0; first < kChunks; first += kTurn) {
    __syncwarp();
#pragma unroll
    for (int c = 0; c < kTurn; ++c) {
      const int i = 4 * (first + c);
      const int word = (r * 8 + (c ^ r)) * 4 + lane % 4;
      words[word] = two_bf16(d[i], d[i + 1]);
      words[word + 8 * 8 * 4] = two_bf16(d[i + 2], d[i + 3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kTurn / 2; ++i) {
      const int from_row = (i * 32 + lane) / kTurn;
      const int c = (i * 32 + lane) % kTurn;
      const uint4 piece = pieces[from_row * 8 + (c ^ (from_row % 8))];
      const int row = warp_row + from_row;
      const int column = warp_column + 8 * (first + c);
      if (row < rows_end && column < results.columns) {
        auto* to = static_cast<uint16_t*>(results.out) + static_cast<int64_t>(row) * results.columns + column;
        *reinterpret_cast<uint4*>(to) = piece;
      }
    }
  }
}

// The same as f32: four lanes' pairs are 32 bytes, which is what memory moves at least.
template <int kUsed, bool kAccumulate, int kCount>
__device__ __forceinline__ void store_f32(const float (&d)[kCount], const Results& results, const Part& part,
                                          int rows_end) {
  constexpr int kTurn = kUsed % 32 == 0 ? 32 : (kUsed % 16 == 0 ? 16 : 8);  // loads under way together
  static_assert(kUsed % kTurn == 0);
  float* const out = static_cast<float*>(results.out) + static_cast<int64_t>(part.row) * results.columns + part.column;
  float* const lines[2] = {out, out + static_cast<int64_t>(8) * results.columns};
  const bool inside[2] = {part.row < rows_end, part.row + 8 < rows_end};
#pragma unroll
  for (int first = 0; first < kUsed; first += kTurn) {
    float2 pairs[kTurn / 2];
#pragma unroll
    for (int i = 0; i < kTurn / 2; ++i) {
      const int column = (first + 2 * i) / 4 * 8;
      pairs[i] = {0.0F, 0.0F};
      if (kAccumulate && inside[i % 2] && part.column + column < results.columns) {
        pairs[i] = *reinterpret_cast<const float2*>(lines[i % 2] + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kTurn / 2; ++i) {
      const int column = (first + 2 * i) / 4 * 8;
      const float x = d[first + 2 * i], y = d[first + 2 * i + 1];
      if (inside[i % 2] && part.column + column < results.columns) {
        *reinterpret_cast<float2*>(lines[i % 2] + column) =
            kAccumulate ? float2{__fadd_rn(pairs[i].x, x), __fadd_rn(pairs[i].y, y)} : float2{x, y};
      }
    }
  }
}

// Any number of columns, any type, one by one.
template <int kCount>
__device__ __forceinline__ void store_singly(const float (&d)[kCount], const Results& results, const Part& part,
                                             int rows_end) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int row = part.row + i / 2 % 2 * 8;
    const int column = part.column + i / 4 * 8 + i % 2;
    if (row >= rows_end || column >= results.columns) continue;
    const int64_t at = static_cast<int64_t>(row) * results.columns + column;
    if (results.out_f32) {
      float* const out = static_cast<float*>(results.out) + at;
      *out = results.accumulate ? __fadd_rn(*out, d[i]) : d[i];
    } else {
      static_cast<uint16_t*>(results.out)[at] = static_cast<uint16_t>(two_bf16(d[i], 0.0F));
    }
  }
}

template <int kUsed, int kCount>
__device__ __forceinline__ void store(const float (&d)[kCount], const Results& results, const Part& part, int rows_end,
                                      unsigned char* staging) {
  if (!results.out_f32) {
    store_bf16<kUsed>(d, results, part, rows_end, staging);
  } else if (results.accumulate) {
    store_f32<kUsed, true>(d, results, part, rows_end);
  } else {
    store_f32<kUsed, false>(d, results, part, rows_end);
  }
}

// `column` is the first of the warpgroup's, counted in w's rows; `row` the first of the warp's.
template <int kCount>
__device__ __forceinline__ void finish_rows(float (&d)[kCount], const Results& results, int row, int column,
                                            int rows_end, unsigned char* staging) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (results.bias != nullptr) add_bias(d, results, column + lane % 4 * 2);
  activate(d, results.activation);
  const Part whole{row + lane / 4, column + lane % 4 * 2};
  if (results.activation == Activation::silu_mul) {
    store<kCount / 2>(d, results, {whole.row, column / 2 + lane % 4 * 2}, rows_end, staging);
  } else if (results.vectors) {
    store<kCount>(d, results, whole, rows_end, staging);
  } else {
    store_singly(d, results, whole, rows_end);
  }
}

}  // namespace keye::ops::cuda::finish
