#include "ops/cpu/linear_tiles.h"

namespace keye::ops {
namespace {

struct Vec256 {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;

  static KEYE_INLINE __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static KEYE_INLINE F load(const float* p, int count) {
    return count == kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask(count));
  }
  static KEYE_INLINE void store(float* p, F v, int count) {
    if (count == kLanes) {
      _mm256_storeu_ps(p, v);
    } else {
      _mm256_maskstore_ps(p, mask(count), v);
    }
  }
  /// Rounds to nearest even; NaN stays NaN.
  static KEYE_INLINE void store_bf16(uint16_t* p, F v, int count) {
    const I word = _mm256_castps_si256(v);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const I rounded = _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const I quiet = _mm256_or_si256(word, _mm256_set1_epi32(0x400000));
    const I nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const I upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    if (count == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
    } else {
      uint16_t parts[kLanes];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(parts), half);
      for (int i = 0; i < count; ++i) p[i] = parts[i];
    }
  }
  static KEYE_INLINE F set(float v) { return _mm256_set1_ps(v); }
  static KEYE_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static KEYE_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static KEYE_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static KEYE_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static KEYE_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static KEYE_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static KEYE_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static KEYE_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  static KEYE_INLINE F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  /// a 2^n in two factors, so that neither overflows before the product does.
  static KEYE_INLINE F scale(F a, F n) {
    const I whole = _mm256_cvtps_epi32(n);
    const I half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(whole, half)));
  }
  static KEYE_INLINE F power(I n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  static KEYE_INLINE F if_negative(F a, F yes, F no) { return _mm256_blendv_ps(no, yes, a); }

  static KEYE_INLINE I zero() { return _mm256_setzero_si256(); }
  static KEYE_INLINE I combine(I a, const void* p) {
    return _mm256_xor_si256(a, _mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
};

/// One row's sums of a panel.
struct Sums256 {
  __m256 parts[4];

  KEYE_INLINE void clear() {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) parts[i] = _mm256_setzero_ps();
  }
  KEYE_INLINE void load(const float* p) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) parts[i] = _mm256_loadu_ps(p + 8 * i);
  }
  KEYE_INLINE void store(float* p) const {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm256_storeu_ps(p + 8 * i, parts[i]);
  }
};

KEYE_INLINE __m256i broadcast256(const char* p) { return _mm256_broadcastd_epi32(_mm_loadu_si32(p)); }
KEYE_INLINE __m256i load256(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// Sixteen registers: twelve sums, one x for each of three rows, one part of the weights.
struct F32Product256 {
  static constexpr int kRowsMax = kTileRowsAvx2;
  static constexpr int kInPlaceRowsMax = kTileRowsAvx2;
  using Sums = Sums256;

  template <int kRows, class RowAt>
  static KEYE_INLINE void step(Sums* sums, const char* weights, RowAt row_at) {
    __m256 x[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) x[r] = _mm256_castsi256_ps(broadcast256(row_at(r)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256 w = _mm256_castsi256_ps(load256(weights + 32 * i));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r].parts[i] = _mm256_fmadd_ps(x[r], w, sums[r].parts[i]);
    }
  }
};

/// A pair's even element is the word shifted up, its odd element the word's upper half: two passes over the same words.
struct SplitProduct256 {
  static constexpr int kRowsMax = kTileRowsAvx2Split;
  static constexpr int kInPlaceRowsMax = kTileRowsAvx2Split;
  using Sums = Sums256;

  struct Even {
    static KEYE_INLINE __m256 of(__m256i pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }
  };
  struct Odd {
    static KEYE_INLINE __m256 of(__m256i pair) {
      return _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
    }
  };

  template <class Half, int kRows, class RowAt>
  static KEYE_INLINE void half_step(Sums* sums, const char* weights, RowAt row_at) {
    __m256 x[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) x[r] = Half::of(broadcast256(row_at(r)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256 w = Half::of(load256(weights + 32 * i));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r].parts[i] = _mm256_fmadd_ps(x[r], w, sums[r].parts[i]);
    }
  }
  template <int kRows, class RowAt>
  static KEYE_INLINE void step(Sums* sums, const char* weights, RowAt row_at) {
    half_step<Even, kRows>(sums, weights, row_at);
    half_step<Odd, kRows>(sums, weights, row_at);
  }
};

struct Spin256 {
  using V = __m256;
  static constexpr double kFlops = 16;
  static KEYE_INLINE V zero() { return _mm256_setzero_ps(); }
  static KEYE_INLINE V multiply_add(V sum, V a, V b) { return _mm256_fmadd_ps(a, b, sum); }
};

void pack256(const TilePack& p) {
  pack_steps(p, 0, p.row_bytes / 4);
  pack_half_step(p);
}

constexpr LinearKernels kKernels = {
    .bf16 = tile_family<SplitProduct256>(),
    .f32 = tile_family<F32Product256>(),
    .finish = finish<Vec256>,
    .pack = pack256,
    .spin_bf16 = spin<Spin256>,
    .spin_f32 = spin<Spin256>,
    .read = read<Vec256>,
};

}  // namespace

const LinearKernels& linear_kernels_avx2() { return kKernels; }

}  // namespace keye::ops
