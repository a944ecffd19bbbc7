#include "ops/cpu/linear_vec512.h"

namespace keye::ops {
namespace {

struct DotProduct {
  static constexpr int kRowsMax = kTileRowsAvx512;
  static constexpr int kInPlaceRowsMax = kInPlaceRows;
  using Sums = Sums512;

  template <int kRows, class RowAt>
  static KEYE_INLINE void step(Sums* sums, const char* weights, RowAt row_at) {
    const auto low = (__m512bh)_mm512_loadu_si512(weights);
    const auto high = (__m512bh)_mm512_loadu_si512(weights + 64);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto x = (__m512bh)broadcast512(row_at(r));
      sums[r].low = _mm512_dpbf16_ps(sums[r].low, low, x);
      sums[r].high = _mm512_dpbf16_ps(sums[r].high, high, x);
    }
  }
};

struct SpinDot {
  using V = __m512;
  static constexpr double kFlops = 64;
  static KEYE_INLINE V zero() { return _mm512_setzero_ps(); }
  static KEYE_INLINE V multiply_add(V sum, V a, V b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};

constexpr LinearKernels kKernels = {
    .bf16 = tile_family<DotProduct>(),
    .f32 = tile_family<F32Product512>(),
    .finish = finish<Vec512>,
    .pack = pack512,
    .spin_bf16 = spin<SpinDot>,
    .spin_f32 = spin<Spin512>,
    .read = read<Vec512>,
};

}  // namespace

const LinearKernels& linear_kernels_avx512_bf16() { return kKernels; }

}  // namespace keye::ops
