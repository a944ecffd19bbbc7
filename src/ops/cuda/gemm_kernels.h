// Matrix products on the device that need no more than compute capability 8.0.
#pragma once

#include <cstdint>

#include "ops/activation.h"
#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

/// A packed matrix in device memory: rows [outputs, inputs], one after another. Gated: in blocks of 16 rows, 8 of gate
/// and the same 8 of up; outputs beyond the last whole block are padded with zeros, so that there are
/// 2 * round_up(f, 8) rows. Inputs are padded to a multiple of 8 (bf16) or 4 (f32) with zeros: `stride` elements a row.
/// bf16 matrices have 128 bytes behind their rows, from the next multiple of 128 on, for gemm_wgmma.h's tensor map.
struct GemmShape {
  int64_t outputs = 0;  // rows stored, of both halves if gated
  int64_t inputs = 0;
  int64_t stride = 0;
};

/// out[t, o] = act(sum_i x[t, i] w[o, i] + bias[o]), or out += that.
struct GemmArguments {
  const void* x;       // [n, inputs], rows x_stride apart
  int64_t x_stride;
  int64_t n;
  const void* w;       // dense
  bool f32;            // x and w; else bf16
  GemmShape shape;
  int64_t columns;     // of out: outputs, or f if gated
  const float* bias;   // [outputs of the unpadded, ungated matrix], or null
  Activation activation;
  bool accumulate;
  void* out;           // [n, columns]
  bool out_f32;        // else bf16
  // Grouped, if `table` is not null: group e owns the rows [offsets[e], offsets[e + 1]) of out, whose inputs are rows
  // rows[p] of x (row p itself if rows is null).
  const void* const* table;  // device memory: each group's w
  const int32_t* offsets;    // device memory: [groups + 1]
  const int32_t* rows;       // device memory: [n], n being the rows of out
  int groups;
};
/// For few rows: memory-bound, every weight is read once per 64 rows.
void gemm_narrow(Stream stream, const GemmArguments& a, int processors);
/// For many rows (bf16 only).
void gemm_wide(Stream stream, const GemmArguments& a, int processors);
/// f32 operands, plain FMA.
void gemm_f32(Stream stream, const GemmArguments& a, int processors);

}  // namespace keye::ops::cuda
