#include "ops/cpu/linear_vec512.h"

namespace keye::ops {
namespace {

/// bf16 without the dot instruction: a pair's even element is the word shifted up, its odd element the word's upper
/// half.
struct SplitProduct {
  static constexpr int kRowsMax = kTileRowsAvx512Split;
  static constexpr int kInPlaceRowsMax = kInPlaceRows;
  using Sums = Sums512;

  static KEYE_INLINE __m512 even(__m512i pair) { return _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)); }
  static KEYE_INLINE __m512 odd(__m512i pair) {
    return _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
  }

  template <int kRows, class RowAt>
  static KEYE_INLINE void step(Sums* sums, const char* weights, RowAt row_at) {
    const __m512i low = _mm512_loadu_si512(weights);
    const __m512i high = _mm512_loadu_si512(weights + 64);
    const __m512 low_even = even(low);
    const __m512 low_odd = odd(low);
    const __m512 high_even = even(high);
    const __m512 high_odd = odd(high);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = broadcast512(row_at(r));
      const __m512 x_even = even(x);
      const __m512 x_odd = odd(x);
      sums[r].low = _mm512_fmadd_ps(x_even, low_even, sums[r].low);
      sums[r].high = _mm512_fmadd_ps(x_even, high_even, sums[r].high);
      sums[r].low = _mm512_fmadd_ps(x_odd, low_odd, sums[r].low);
      sums[r].high = _mm512_fmadd_ps(x_odd, high_odd, sums[r].high);
    }
  }
};

constexpr LinearKernels kKernels = {
    .bf16 = tile_family<SplitProduct>(),
    .f32 = tile_family<F32Product512>(),
    .finish = finish<Vec512>,
    .pack = pack512,
    .spin_bf16 = spin<Spin512>,
    .spin_f32 = spin<Spin512>,
    .read = read<Vec512>,
};

}  // namespace

const LinearKernels& linear_kernels_avx512() { return kKernels; }

}  // namespace keye::ops
