// Weight matrices in the one layout that every kernel reads, whatever the batch size.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace keye::ops {

/// Outputs per panel: two AVX-512 registers of f32 sums.
inline constexpr int kPanel = 32;

/// A matrix w [outputs, inputs], packed once at load. Output o sits in lane o % kPanel of panel o / kPanel; the last
/// panel is padded with zeros. Sums run over the inputs in order, one lane per output, for every batch size.
///   bf16: [panels][ceil(inputs / 2)][kPanel][2]   pairs along the inputs; an odd last input is paired with zero
///   f32:  [panels][inputs][kPanel]
///   f8_e4m3: as bf16, a byte an element; element (o, i) counts scales[o / 16 of the panels' halves][i / block_inputs]
///   times
/// A gated matrix holds gate and up projections of f outputs each (outputs == 2 * f): panel i holds gate rows
/// [16 i, 16 i + 16) in lanes 0..15 and the same up rows in lanes 16..31, each half padded with zeros.
struct PackedMatrix {
  Buffer data;
  DType dtype = DType::bf16;
  int64_t outputs = 0;
  int64_t inputs = 0;
  bool gated = false;
  // f8_e4m3: a factor for each half panel and so many inputs, an even number: [panels][scale_blocks()][2] f32.
  Buffer scales;
  int64_t block_inputs = 0;

  int64_t scale_blocks() const { return block_inputs == 0 ? 0 : (inputs + block_inputs - 1) / block_inputs; }
  int64_t panels() const;
  /// Bytes from one panel to the next.
  size_t panel_bytes() const;
  bool empty() const { return data.data() == nullptr; }
};

/// A matrix of any float dtype somewhere in memory; strides in elements. Of e4m3, a factor belongs to each block of
/// block_rows x block_cols, scale (row / block_rows, col / block_cols), rows of them scale_stride apart.
struct StridedMatrix {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 1;
  const float* scales = nullptr;
  int64_t block_rows = 0;
  int64_t block_cols = 0;
  int64_t scale_stride = 0;

  float scale(int64_t row, int64_t col) const { return scales[row / block_rows * scale_stride + col / block_cols]; }
};

/// What to pack: the blocks' rows one after another (q|k|v), or, if gated, exactly two blocks of equal shape: gate, up.
/// f8_e4m3 is made of f8_e4m3 alone (can_keep_blocks).
struct PackMatrix {
  std::span<const StridedMatrix> blocks;
  bool gated = false;
  DType dtype = DType::bf16;  // bf16, f32 or f8_e4m3
};

/// Whether matrices of e4m3 with block scales can be packed as they are: one factor for each half panel and block.
bool can_keep_blocks(std::span<const StridedMatrix> blocks, bool gated);

/// Fills with pseudo-random values in [-scale, scale] (f32 or bf16), cheap enough for gigabytes.
void fill_random(DType dtype, void* data, int64_t count, float scale, uint64_t seed);

struct RandomMatrix {
  int64_t outputs = 0;
  int64_t inputs = 0;
  bool gated = false;
  DType dtype = DType::bf16;
  float scale = 1;
  uint64_t seed = 1;
};

}  // namespace keye::ops
