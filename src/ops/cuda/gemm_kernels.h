// Matrix products on the device that need no more than compute capability 8.0.
#pragma once

#include <cstdint>

#include "ops/activation.h"
#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

/// A packed matrix in device memory: rows of `stride` elements, one after another: inputs padded with zeros to a
/// multiple of 8 (bf16) or 4 (f32). Gated: blocks of 16 rows, 8 of gate and the same 8 of up, padded with zeros to
/// whole blocks. A bf16 matrix is followed by its tensor map (gemm_wgmma.h).
struct GemmShape {
  int64_t outputs = 0;  // rows stored, of both halves if gated
  int64_t inputs = 0;
  int64_t stride = 0;
};

/// out[t, o] = act(sum_i x[t, i] w[o, i] + bias[o]), or out += that.
struct GemmArguments {
  const void* x;  // [n, stride] bf16 or f32, 16-byte aligned; what pads its rows is finite
  int64_t n;      // rows of out
  const void* w;  // dense
  bool f32;       // x and w; else bf16
  GemmShape shape;
  int64_t columns;    // of out: outputs, or f if gated
  const float* bias;  // [outputs], not for gated matrices, or null
  Activation activation;
  bool accumulate;
  void* out;  // [n, columns]
  bool out_f32;
  // Grouped, if `table` is not null: group e owns the rows [offsets[e], offsets[e + 1]) of out, whose inputs are rows
  // rows[p] of x (row p itself if rows is null).
  const void* const* table;  // device memory: each group's w
  const int32_t* offsets;    // device memory: [groups + 1]
  const int32_t* rows;       // device memory: [n]
  int groups;
};

/// bf16, by mma.m16n8k16: f32 sums over steps of 16 inputs in order, which are the bits of gemm_wgmma.h. Every weight
/// is read once per 64 rows: at the memory's speed for few rows, but far from the tensor cores' for many.
void gemm_bf16(Stream stream, const GemmArguments& a, int processors);
/// f32, by plain multiply-adds: 32 sums of every 32nd four inputs, in order, added as a tree.
void gemm_f32(Stream stream, const GemmArguments& a);

}  // namespace keye::ops::cuda
