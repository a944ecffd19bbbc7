#include "ops/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// SplitMix64: enough for benchmark weights.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
};

}  // namespace

int64_t PackedMatrix::panels() const {
  return gated ? (outputs / 2 + kPanel / 2 - 1) / (kPanel / 2) : (outputs + kPanel - 1) / kPanel;
}

size_t PackedMatrix::panel_bytes() const {
  if (dtype == DType::f8_e4m3) return static_cast<size_t>((inputs + 1) / 2) * kPanel * 2;
  KEYE_DCHECK(dtype == DType::bf16 || dtype == DType::f32);
  const int64_t depth = dtype == DType::bf16 ? (inputs + 1) / 2 : inputs;  // steps of 4 bytes an output
  return static_cast<size_t>(depth) * kPanel * sizeof(float);
}

bool can_keep_blocks(std::span<const StridedMatrix> blocks, bool gated) {
  constexpr int64_t kHalf = kPanel / 2;
  const StridedMatrix& first = blocks.front();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const StridedMatrix& block = blocks[i];
    if (block.dtype != DType::f8_e4m3 || block.col_stride != 1 || block.block_rows % kHalf != 0 ||
        block.block_cols % 2 != 0 || block.block_cols != first.block_cols) {
      return false;
    }
    if (!gated && i + 1 < blocks.size() && block.rows % kHalf != 0) return false;
  }
  return true;
}

void fill_random(DType dtype, void* data, int64_t count, float scale, uint64_t seed) {
  Random random{seed};
  uint64_t bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i % 4 == 0) bits = random.next();  // one step of the generator gives four values
    const float value = (static_cast<float>(bits & 0xffff) / 32767.5F - 1.0F) * scale;
    bits >>= 16;
    if (dtype == DType::bf16) {
      static_cast<BFloat16*>(data)[i] = BFloat16(value);
    } else {
      static_cast<float*>(data)[i] = value;
    }
  }
}

PackedMatrix RefBackend::random_matrix(const RandomMatrix& matrix) {
  PackedMatrix packed{
      .data = {}, .dtype = matrix.dtype, .outputs = matrix.outputs, .inputs = matrix.inputs, .gated = matrix.gated};
  packed.data = Buffer(static_cast<size_t>(packed.panels()) * packed.panel_bytes());
  if (packed.dtype == DType::f8_e4m3) {
    Random random{matrix.seed};
    auto* codes = static_cast<uint8_t*>(packed.data.data());
    // Of every exponent but the highest, where NaN is: as good as any for the time that a product takes.
    for (size_t i = 0; i < packed.data.size(); i += 8) {
      const uint64_t bits = random.next() & 0xf7f7f7f7f7f7f7f7ULL;
      std::memcpy(codes + i, &bits, std::min<size_t>(8, packed.data.size() - i));
    }
    packed.block_inputs = 128;
    packed.scales = Buffer(static_cast<size_t>(packed.panels() * packed.scale_blocks() * 2) * sizeof(float));
    auto* scales = static_cast<float*>(packed.scales.data());
    std::fill_n(scales, packed.panels() * packed.scale_blocks() * 2, matrix.scale / 240.0F);
    return packed;
  }
  // Packed bytes have no structure that random values could break: fill them directly.
  fill_random(packed.dtype, packed.data.data(), static_cast<int64_t>(packed.data.size() / dtype_bytes(packed.dtype)),
              matrix.scale, matrix.seed);
  return packed;
}

}  // namespace keye::ops
