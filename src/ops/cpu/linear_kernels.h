// What one instruction set provides to the matrix products: plain functions over plain pointers. A weight panel holds
// `steps` steps of 128 bytes: four bytes (a pair of bf16, or one f32) for each of the 32 lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/activation.h"

namespace keye::ops {

inline constexpr int kTileLanes = 32;
// Rows of the largest tile: what the registers hold beside the weights.
inline constexpr int kTileRowsAvx2 = 3;
inline constexpr int kTileRowsAvx2Split = 2;     // bf16 taken apart into f32
inline constexpr int kTileRowsAvx512Split = 12;  // the same
inline constexpr int kTileRowsAvx512 = 14;
inline constexpr int kTileRowsMax = 14;
inline constexpr int kInPlaceRows = 8;      // of AVX-512 tiles: one pointer a row
inline constexpr size_t kStepBytes = 128;   // of a panel
inline constexpr size_t kRowStepBytes = 4;  // of one row of x

/// sums[row][lane] = (resume ? sums[row][lane] : 0) + sum over steps, in order, of x[row] * weights[lane].
/// Meanwhile asks the memory for what will be read next: two lines at `prefetch`, which moves on after every step.
struct TileProduct {
  const void* weights = nullptr;
  const void* x = nullptr;              // packed: [steps][rows] of four bytes
  const void* const* x_rows = nullptr;  // in place: where each row starts
  int64_t steps = 0;
  float* sums = nullptr;
  bool resume = false;
  const char* prefetch = nullptr;
  int64_t prefetch_stride = 0;
};
using TileFunction = void (*)(const TileProduct& tile);

/// out[row][column] = act(sums + bias), converted, or added to out. Plain: lane j is column j. silu_mul: lane j is the
/// gate of column j, lane 16 + j its up value.
struct TileFinish {
  const float* sums = nullptr;
  int rows = 0;
  int columns = 0;  // of this panel: at most 32, silu_mul 16
  Activation activation = Activation::none;
  const float* bias = nullptr;     // of the panel's first column, or null
  const float* bias_up = nullptr;  // silu_mul: the up half's
  void* out = nullptr;
  int64_t out_stride = 0;  // elements from row to row
  bool out_bf16 = false;
  bool accumulate = false;
};

/// Rows of x side by side, step by step: out[step][row], four bytes each; a last half step is filled with zero.
struct TilePack {
  const void* const* x_rows = nullptr;
  int rows = 0;
  int64_t row_bytes = 0;
  void* out = nullptr;
};

/// Tiles of one element type: [rows - 1]; null beyond the largest.
struct TileFamily {
  TileFunction packed[kTileRowsMax];
  TileFunction in_place[kTileRowsMax];
};

struct LinearKernels {
  TileFamily bf16;
  TileFamily f32;
  void (*finish)(const TileFinish& finish);
  void (*pack)(const TilePack& pack);
  /// Independent multiply-adds on registers, `rounds` times; returns their number of flops.
  double (*spin_bf16)(int64_t rounds);
  double (*spin_f32)(int64_t rounds);
  /// Reads [data, data + bytes) in 1, 2 or 4 equal parts side by side, asking for what lies `prefetch` bytes ahead
  /// (0: leaving that to the processor); bytes is a multiple of 64 KiB.
  uint64_t (*read)(const void* data, size_t bytes, int streams, size_t prefetch);
};

/// As TileProduct, with codes for weights; x in place, without resuming.
struct CodeTileProduct {
  const uint8_t* codes = nullptr;
  const void* const* x_rows = nullptr;
  int64_t steps = 0;
  float* sums = nullptr;
};
using CodeTileFunction = void (*)(const CodeTileProduct& tile);
inline constexpr int kCodeRows = 4;

/// e4m3 codes, panel steps of two inputs and 32 lanes as in packed_matrix.h, to the panels that the tiles read. Exact,
/// NaN excepted.
struct CodeKernels {
  void (*expand_bf16)(const uint8_t* codes, int64_t steps, void* panel);  // [steps][32][2] to the same in bf16
  void (*expand_f32)(const uint8_t* codes, int64_t inputs, void* panel);  // to [inputs][32]
  /// What expand_bf16 and a tile in place would give, without the memory between them: for few rows, [rows - 1] up to
  /// kCodeRows. Null where there is no such kernel.
  CodeTileFunction in_place[kCodeRows];
};

const CodeKernels& code_kernels_avx2();
/// For AVX-512 with VBMI; expand_f32 is AVX2's, and there are no kernels in place.
const CodeKernels& code_kernels_vbmi();
/// For AVX-512 with VBMI and bf16.
const CodeKernels& code_kernels_vbmi_bf16();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();
const LinearKernels& linear_kernels_avx512_bf16();

}  // namespace keye::ops
