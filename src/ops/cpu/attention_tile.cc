#include "ops/cpu/attention_tile.h"

#include <cstring>

#include "ops/attention.h"
#include "ops/quantize_row.h"

namespace keye::ops {
namespace {

constexpr size_t kLine = 64;
size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// Copies `count` elements of kBytes each, to places `step` elements apart.
template <size_t kBytes>
void scatter(const void* from, int count, std::byte* to, size_t step) {
  const auto* bytes = static_cast<const std::byte*>(from);
  for (int i = 0; i < count; ++i, bytes += kBytes, to += step * kBytes) std::memcpy(to, bytes, kBytes);
}

}  // namespace

const AttentionKernels* attention_kernels(Isa isa, DType dtype) {
#if defined(KEYE_X86)
  const bool f32 = dtype == DType::f32;
  switch (isa) {
    case Isa::scalar:
      return nullptr;
    case Isa::avx2:
      return f32 ? &avx2_attention_f32() : &avx2_attention_bf16();
    case Isa::avx512:
      return f32 ? &avx512_attention_f32() : &avx512_attention_bf16();
    case Isa::avx512_bf16:
      return f32 ? &avx512_attention_f32() : &avx512_bf16_attention_bf16();
  }
#endif
  static_cast<void>(isa);
  static_cast<void>(dtype);
  return nullptr;
}

TileScratch::TileScratch(void* memory, int dim) {
  const auto carve = [&]<class T>(T*& part, size_t count) {
    if (memory != nullptr) part = reinterpret_cast<T*>(static_cast<std::byte*>(memory) + bytes);
    bytes += whole_lines(count * sizeof(T));
  };
  carve(work, attention_work_floats(dim));
  carve(state, kTileRows * state_stride(dim));
  carve(q, static_cast<size_t>(kTileRows) * static_cast<size_t>(dim));
  carve(row, static_cast<size_t>(dim));
  carve(queries, kTileRows);
  carve(limits, kTileRows);
  carve(packed, packed_page_bytes(dim));
}

void pack_queries(const AttentionKernels& kernels, const RowKernels& row_kernels, const PackQueries& work) {
  const bool widen = work.dtype == DType::bf16 && kernels.wide_queries;
  const int words = work.dtype == DType::bf16 && !widen ? work.dim / 2 : work.dim;
  const int blocks = block_count(work.rows, kernels.block_max);
  for (int b = 0; b < work.heads * blocks; ++b) {
    const int first = b / blocks * work.rows + row_of_block(work.rows, kernels.block_max, b % blocks);
    const int end = b / blocks * work.rows + row_of_block(work.rows, kernels.block_max, b % blocks + 1);
    auto* to = reinterpret_cast<std::byte*>(work.out + static_cast<ptrdiff_t>(first) * words);
    for (int r = first; r < end; ++r, to += 4) {
      const void* head = work.queries[r];
      if (widen) {
        row_kernels.widen_bf16(static_cast<const uint16_t*>(head), work.row, work.dim);
        head = work.row;
      }
      scatter<4>(head, words, to, static_cast<size_t>(end - first));
    }
  }
}

void write_key(DType dtype, int dim, const void* head, std::byte* block, int slot) {
  scatter<4>(head, dtype == DType::f32 ? dim : dim / 2, block + slot * 4, kPageTokens);
}

void write_value(DType dtype, int dim, const void* head, std::byte* block, int slot) {
  if (dtype == DType::f32) {
    std::memcpy(block + static_cast<ptrdiff_t>(slot) * dim * 4, head, static_cast<size_t>(dim) * 4);
  } else {
    scatter<2>(head, dim, block + (static_cast<ptrdiff_t>(slot / 2) * dim * 2 + slot % 2) * 2, 2);
  }
}

void write_head(const RowKernels& row_kernels, const KvPlane& plane, const float* head, std::byte* block, int slot,
                void* rounded) {
  if (plane.scaled()) {
    return quantize_row(plane.dtype, head, plane.dim, plane.row(block, slot), plane.scales(block) + slot);
  }
  if (plane.layout == PlaneLayout::rows) {
    return round_to(row_kernels, plane.dtype, plane.dim, head, plane.row(block, slot));
  }
  round_to(row_kernels, plane.dtype, plane.dim, head, rounded);
  if (plane.layout == PlaneLayout::keys) {
    write_key(plane.dtype, plane.dim, rounded, block, slot);
  } else {
    write_value(plane.dtype, plane.dim, rounded, block, slot);
  }
}

void clear_slots(const KvPlane& plane, std::byte* block, int from) {
  if (plane.layout == PlaneLayout::rows) {
    const auto slots = static_cast<size_t>(kPageTokens - from);
    std::memset(plane.row(block, from), 0, slots * plane.row_bytes());
    if (plane.scaled()) std::memset(plane.scales(block) + from, 0, slots * sizeof(float));
    return;
  }
  if (plane.layout == PlaneLayout::keys) {
    constexpr size_t kRow = 4 * kPageTokens;  // a channel in f32, or two in bf16
    for (size_t row = 0; row < plane.head_bytes(); row += kRow) {
      std::memset(block + row + from * 4, 0, kRow - static_cast<size_t>(from) * 4);
    }
    return;
  }
  if (plane.dtype == DType::bf16 && from % 2 == 1) {
    const BFloat16 zeros[kHeadDimMax] = {};
    write_value(plane.dtype, plane.dim, zeros, block, from++);
  }
  const size_t kept = static_cast<size_t>(from * plane.dim) * dtype_bytes(plane.dtype);
  std::memset(block + kept, 0, plane.head_bytes() - kept);
}

void round_to(const RowKernels& row_kernels, DType dtype, int count, const float* x, void* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, x, static_cast<size_t>(count) * 4);
  } else {
    row_kernels.narrow_bf16(x, static_cast<uint16_t*>(out), count);
  }
}

}  // namespace keye::ops
