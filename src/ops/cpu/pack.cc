#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "ops/cpu/cpu_backend.h"

namespace keye::ops {
namespace {

constexpr int64_t kInputs = 32;  // of a chunk: what is read and written stays close
constexpr int64_t kTogether =
    8;  // panels that take turns at each chunk, so that a transposed source's rows are read in runs

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

struct Half {
  uint16_t bits;
  explicit operator float() const { return f16_to_float(bits); }
};

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else {
    return To(static_cast<float>(value));
  }
}

/// One panel's way from From to To, a chunk of inputs at a time.
template <class From, class To>
class PanelPacker {
 public:
  PanelPacker(const PackMatrix& source, int64_t index, void* panel)
      : rows_(panel_rows(source, index)),
        stride_(source.blocks.front().col_stride * static_cast<int64_t>(sizeof(From))),
        panel_(static_cast<To*>(panel)) {
    for (size_t lane = 0; lane < kPanel; ++lane) {
      side_by_side_ = side_by_side_ && rows_[lane] != nullptr && rows_[lane] == rows_[0] + lane * sizeof(From);
    }
  }

  void pack(int64_t begin, int64_t end) const {
    if (stride_ == sizeof(From)) {
      pack_along_inputs(begin, end);
    } else if (side_by_side_) {
      pack_along_lanes(begin, end);
    } else {
      pack_elements(begin, end);
    }
  }

 private:
  static constexpr int64_t kPair = std::is_same_v<To, float> ? 1 : 2;  // inputs side by side in a lane

  To* place(int64_t input, int64_t lane) const {
    return panel_ + (input / kPair * kPanel + lane) * kPair + input % kPair;
  }

  void pack_along_inputs(int64_t begin, int64_t end) const {
    From in[kInputs];
    To out[kInputs + 1] = {};
    const auto count = static_cast<size_t>(end - begin);
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const std::byte* row = rows_[static_cast<size_t>(lane)];
      if (row == nullptr) continue;
      row += begin * stride_;
      __builtin_prefetch(row + kInputs * static_cast<int64_t>(sizeof(From)));
      if (count == kInputs) {
        std::memcpy(in, row, sizeof in);
        for (size_t i = 0; i < kInputs; ++i) out[i] = converted<To>(in[i]);
        for (int64_t i = 0; i < kInputs; i += kPair) std::memcpy(place(begin + i, lane), &out[i], kPair * sizeof(To));
      } else {
        std::memcpy(in, row, count * sizeof(From));
        for (size_t i = 0; i < count; ++i) *place(begin + static_cast<int64_t>(i), lane) = converted<To>(in[i]);
      }
    }
  }

  void pack_along_lanes(int64_t begin, int64_t end) const {
    for (int64_t input = begin; input < end; input += kPair) {
      From in[kPair][kPanel] = {};
      for (int64_t i = 0; i < std::min(kPair, end - input); ++i) {
        std::memcpy(in[i], rows_[0] + (input + i) * stride_, sizeof in[i]);
      }
      To* out = place(input, 0);
      for (int64_t lane = 0; lane < kPanel; ++lane) {
        for (int64_t i = 0; i < kPair; ++i) out[lane * kPair + i] = converted<To>(in[i][lane]);
      }
    }
  }

  void pack_elements(int64_t begin, int64_t end) const {
    for (int64_t input = begin; input < end; ++input) {
      for (int64_t lane = 0; lane < kPanel; ++lane) {
        const std::byte* row = rows_[static_cast<size_t>(lane)];
        if (row == nullptr) continue;
        From value;
        std::memcpy(&value, row + input * stride_, sizeof value);
        *place(input, lane) = converted<To>(value);
      }
    }
  }

  PanelRows rows_;
  int64_t stride_;
  To* panel_;
  bool side_by_side_ = true;
};

template <class From, class To>
void pack_panels(ThreadPool& pool, const PackMatrix& source, const PackedMatrix& packed) {
  const int64_t panels = packed.panels();
  const bool along_inputs = source.blocks.front().col_stride == 1;
  const int64_t together = along_inputs ? 1 : kTogether;
  pool.for_each((panels + together - 1) / together, [&](int64_t item, int) {
    std::vector<PanelPacker<From, To>> packers;
    for (int64_t i = item * together; i < std::min(panels, (item + 1) * together); ++i) {
      packers.emplace_back(source, i,
                           static_cast<std::byte*>(packed.data.data()) + static_cast<size_t>(i) * packed.panel_bytes());
    }
    for (int64_t begin = 0; begin < packed.inputs; begin += kInputs) {
      for (const auto& packer : packers) packer.pack(begin, std::min(begin + kInputs, packed.inputs));
    }
  });
}

template <class To>
void pack_to(ThreadPool& pool, const PackMatrix& source, const PackedMatrix& packed) {
  switch (source.blocks.front().dtype) {
    case DType::f32:
      return pack_panels<float, To>(pool, source, packed);
    case DType::bf16:
      return pack_panels<BFloat16, To>(pool, source, packed);
    default:
      return pack_panels<Half, To>(pool, source, packed);
  }
}

}  // namespace

PackedMatrix CpuBackend::do_pack(const PackMatrix& source) {
  PackedMatrix packed;
  packed.dtype = source.dtype;
  packed.gated = source.gated;
  packed.inputs = source.blocks.front().cols;
  const StridedMatrix& first = source.blocks.front();
  for (const StridedMatrix& block : source.blocks) {
    packed.outputs += block.rows;
    // A panel may straddle blocks, which is only worth being fast at if they are of one kind, as they are in models.
    if (block.dtype != first.dtype || block.col_stride != first.col_stride) return RefBackend::do_pack(source);
  }
  packed.data = Buffer(static_cast<size_t>(packed.panels()) * packed.panel_bytes());
  if (packed.dtype == DType::f8_e4m3) {
    pack_panels<uint8_t, uint8_t>(pool_, source, packed);
    pack_scales(source, packed);
  } else if (packed.dtype == DType::bf16) {
    pack_to<BFloat16>(pool_, source, packed);
  } else {
    pack_to<float>(pool_, source, packed);
  }
  return packed;
}

}  // namespace keye::ops
