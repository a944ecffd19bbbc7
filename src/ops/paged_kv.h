// How keys and values of earlier tokens lie in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace keye::ops {

/// Tokens per page, in every plane.
inline constexpr int kPageTokens = 64;
/// Pages that hold so many tokens.
constexpr int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

enum class PlaneLayout : uint8_t { keys, values, rows };

/// One layer's share of one plane: pages of kPageTokens tokens for each head. `keys` and `values` are as the kernels
/// want them, with tokens (keys) or channels (values) across SIMD lanes, in pairs for the bf16 dot instructions. `rows`
/// keeps a token's head together, for those that read single tokens, and may be quantised:
///   keys    bf16 [page][head][dim / 2][64][2]     f32 [page][head][dim][64]
///   values  bf16 [page][head][32][dim][2]         f32 [page][head][64][dim]
///   rows    bf16, f32 [page][head][64][dim]
///           i8, f8_e4m3 [page][head]: [64][dim], then [64] f32 scales that the elements are multiplied by
/// In the layout rows a plane may be a view of the first `dim` elements of wider rows, which `stride` then counts.
/// dim is even. A page's bytes are finite at all times: writing slot 0 of a page clears the rest of the page.
struct KvPlane {
  std::byte* data = nullptr;
  DType dtype = DType::bf16;
  PlaneLayout layout = PlaneLayout::keys;
  int heads = 0;
  int dim = 0;
  int stride = 0;  // 0: dim

  bool scaled() const { return dtype == DType::i8 || dtype == DType::f8_e4m3; }
  /// From one token to the next in the layout `rows`.
  size_t row_bytes() const { return static_cast<size_t>(stride != 0 ? stride : dim) * dtype_bytes(dtype); }
  size_t head_bytes() const {
    return static_cast<size_t>(kPageTokens) * (row_bytes() + (scaled() ? sizeof(float) : 0));
  }
  size_t page_bytes() const { return static_cast<size_t>(heads) * head_bytes(); }
  /// The block of one head in one page.
  std::byte* block(int32_t page, int head) const {
    return data + static_cast<size_t>(page) * page_bytes() + static_cast<size_t>(head) * head_bytes();
  }
  std::byte* row(std::byte* block, int slot) const { return block + static_cast<size_t>(slot) * row_bytes(); }
  float* scales(std::byte* block) const {
    return reinterpret_cast<float*>(block + static_cast<size_t>(kPageTokens) * row_bytes());
  }
};

/// One sequence's new tokens in a step: rows [first_row, first_row + rows) of the step's tensors, at sequence indices
/// [context, context + rows). pages[i] holds the tokens [64 i, 64 i + 64), new ones included.
struct SequenceRows {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t context = 0;
  std::span<const int32_t> pages;
};

}  // namespace keye::ops
