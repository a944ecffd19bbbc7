#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "ops/cpu/cpu_backend.h"

namespace keye::ops {
namespace {

constexpr int64_t kChunkBytes = 64;  // of one source row at a time: a line

/// The 32 source rows of a panel, element (0, 0) of each; null where the panel is padded, which stays zero.
using PanelRows = std::array<const std::byte*, kPanel>;

PanelRows panel_rows(const PackMatrix& source, int64_t panel) {
  PanelRows rows{};
  const int64_t half = kPanel / 2;
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    size_t b = source.gated ? static_cast<size_t>(lane / half) : 0;
    int64_t row = source.gated ? panel * half + lane % half : panel * kPanel + lane;
    while (!source.gated && b < source.blocks.size() && row >= source.blocks[b].rows) row -= source.blocks[b++].rows;
    if (b == source.blocks.size() || row >= source.blocks[b].rows) continue;
    const StridedMatrix& block = source.blocks[b];
    rows[static_cast<size_t>(lane)] = static_cast<const std::byte*>(block.data) +
                                      row * block.row_stride * static_cast<int64_t>(dtype_bytes(block.dtype));
  }
  return rows;
}

/// Rows that need no conversion and lie contiguous: four bytes at a time, a line of every row before the next.
void copy_words(const PanelRows& rows, int64_t row_bytes, std::byte* panel) {
  for (int64_t begin = 0; begin < row_bytes; begin += kChunkBytes) {
    const int64_t end = std::min(begin + kChunkBytes, row_bytes / 4 * 4);
    std::byte* out = panel + begin * kPanel;
    for (size_t lane = 0; lane < kPanel; ++lane, out += 4) {
      const std::byte* row = rows[lane];
      if (row == nullptr) continue;
      __builtin_prefetch(row + begin + kChunkBytes);
      for (int64_t i = begin; i < end; i += 4) std::memcpy(out + (i - begin) * kPanel, row + i, 4);
    }
  }
  if (row_bytes % 4 != 0) {  // half a pair
    const int64_t begin = row_bytes / 4 * 4;
    for (size_t lane = 0; lane < kPanel; ++lane) {
      if (rows[lane] != nullptr) std::memcpy(panel + begin * kPanel + lane * 4, rows[lane] + begin, 2);
    }
  }
}

struct Half {
  uint16_t bits;
  explicit operator float() const { return f16_to_float(bits); }
};

/// Any conversion and stride, in blocks of inputs that keep close what is read and written; runs along the lanes where
/// the source does.
template <class From, class To>
void convert_elements(const PanelRows& rows, int64_t inputs, int64_t col_stride, bool lanes_first, To* panel) {
  constexpr int64_t kInputs = 32;
  constexpr int64_t kPair = std::is_same_v<To, BFloat16> ? 2 : 1;
  const auto move = [&](int64_t input, int64_t lane) {
    const std::byte* row = rows[static_cast<size_t>(lane)];
    if (row == nullptr) return;
    From value;
    std::memcpy(&value, row + input * col_stride * static_cast<int64_t>(sizeof(From)), sizeof value);
    panel[(input / kPair * kPanel + lane) * kPair + input % kPair] = To(static_cast<float>(value));
  };
  for (int64_t begin = 0; begin < inputs; begin += kInputs) {
    const int64_t end = std::min(begin + kInputs, inputs);
    if (lanes_first) {
      for (int64_t input = begin; input < end; ++input) {
        for (int64_t lane = 0; lane < kPanel; ++lane) move(input, lane);
      }
    } else {
      for (int64_t lane = 0; lane < kPanel; ++lane) {
        for (int64_t input = begin; input < end; ++input) move(input, lane);
      }
    }
  }
}

template <class To>
void pack_panel(const PanelRows& rows, const StridedMatrix& block, To* panel) {
  const bool lanes_first = block.row_stride < block.col_stride;
  switch (block.dtype) {
    case DType::f32:
      return convert_elements<float>(rows, block.cols, block.col_stride, lanes_first, panel);
    case DType::bf16:
      return convert_elements<BFloat16>(rows, block.cols, block.col_stride, lanes_first, panel);
    default:
      return convert_elements<Half>(rows, block.cols, block.col_stride, lanes_first, panel);
  }
}

}  // namespace

PackedMatrix CpuBackend::do_pack(const PackMatrix& source) {
  PackedMatrix packed;
  packed.dtype = source.dtype;
  packed.gated = source.gated;
  packed.inputs = source.blocks.front().cols;
  const StridedMatrix& first = source.blocks.front();
  bool alike = true;  // blocks of one kind, which the panels may straddle
  for (const StridedMatrix& block : source.blocks) {
    packed.outputs += block.rows;
    alike = alike && block.dtype == first.dtype && block.row_stride == first.row_stride &&
            block.col_stride == first.col_stride;
  }
  if (!alike) return RefBackend::do_pack(source);
  packed.data = Buffer(static_cast<size_t>(packed.panels()) * packed.panel_bytes());

  pool_.for_each(packed.panels(), [&](int64_t index, int) {
    const PanelRows rows = panel_rows(source, index);
    std::byte* panel = static_cast<std::byte*>(packed.data.data()) + static_cast<size_t>(index) * packed.panel_bytes();
    if (first.dtype == packed.dtype && first.col_stride == 1) {
      copy_words(rows, first.cols * static_cast<int64_t>(dtype_bytes(first.dtype)), panel);
    } else if (packed.dtype == DType::bf16) {
      pack_panel(rows, first, reinterpret_cast<BFloat16*>(panel));
    } else {
      pack_panel(rows, first, reinterpret_cast<float*>(panel));
    }
  });
  return packed;
}

}  // namespace keye::ops
