// 512-bit registers for linear_tiles.h. Only the AVX-512 files include this.
#pragma once

#include "ops/cpu/linear_tiles.h"

namespace keye::ops {
namespace {

struct Vec512 {
  using F = __m512;
  using I = __m512i;
  static constexpr int kLanes = 16;

  static KEYE_INLINE __mmask16 mask(int count) { return static_cast<__mmask16>((1U << count) - 1U); }
  static KEYE_INLINE F load(const float* p, int count) {
    return count == kLanes ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask(count), p);
  }
  static KEYE_INLINE void store(float* p, F v, int count) {
    if (count == kLanes) {
      _mm512_storeu_ps(p, v);
    } else {
      _mm512_mask_storeu_ps(p, mask(count), v);
    }
  }
  /// Rounds to nearest even; NaN stays NaN.
  static KEYE_INLINE void store_bf16(uint16_t* p, F v, int count) {
    const I word = _mm512_castps_si512(v);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    I rounded = _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), word, _mm512_set1_epi32(0x400000));
    const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    if (count == kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
    } else {
      _mm256_mask_storeu_epi16(p, mask(count), half);
    }
  }
  static KEYE_INLINE F set(float v) { return _mm512_set1_ps(v); }
  static KEYE_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static KEYE_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static KEYE_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static KEYE_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static KEYE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static KEYE_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static KEYE_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static KEYE_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  static KEYE_INLINE F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static KEYE_INLINE F scale(F a, F n) { return _mm512_scalef_ps(a, n); }
  static KEYE_INLINE F if_negative(F a, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(a)), no, yes);
  }

  static KEYE_INLINE I zero() { return _mm512_setzero_si512(); }
  static KEYE_INLINE I combine(I a, const void* p) { return _mm512_xor_si512(a, _mm512_loadu_si512(p)); }
};

/// One row's sums of a panel.
struct Sums512 {
  __m512 low;
  __m512 high;

  KEYE_INLINE void clear() { low = high = _mm512_setzero_ps(); }
  KEYE_INLINE void load(const float* p) {
    low = _mm512_loadu_ps(p);
    high = _mm512_loadu_ps(p + 16);
  }
  KEYE_INLINE void store(float* p) const {
    _mm512_storeu_ps(p, low);
    _mm512_storeu_ps(p + 16, high);
  }
};

KEYE_INLINE __m512i broadcast512(const char* p) { return _mm512_broadcastd_epi32(_mm_loadu_si32(p)); }

struct F32Product512 {
  static constexpr int kRowsMax = kTileRowsAvx512;
  static constexpr int kInPlaceRowsMax = kInPlaceRows;
  using Sums = Sums512;

  template <int kRows, class RowAt>
  static KEYE_INLINE void step(Sums* sums, const char* weights, RowAt row_at) {
    const __m512 low = _mm512_loadu_ps(weights);
    const __m512 high = _mm512_loadu_ps(weights + 64);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512 x = _mm512_castsi512_ps(broadcast512(row_at(r)));
      sums[r].low = _mm512_fmadd_ps(x, low, sums[r].low);
      sums[r].high = _mm512_fmadd_ps(x, high, sums[r].high);
    }
  }
};

struct Spin512 {
  using V = __m512;
  static constexpr double kFlops = 32;
  static KEYE_INLINE V zero() { return _mm512_setzero_ps(); }
  static KEYE_INLINE V multiply_add(V sum, V a, V b) { return _mm512_fmadd_ps(a, b, sum); }
};

/// Sixteen rows of sixteen words become sixteen columns.
KEYE_INLINE void transpose512(__m512i* v) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {  // words of neighbouring rows, in pairs
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // of four rows: word 4 q + j of each in quarter q of v[i + j]
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // a 4 x 4 transposition of the quarters
    const __m512i a = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xee);
    t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

/// Sixteen steps at a time. Each is stored as a whole register, over whose unused end the next step is written; the
/// last ones are masked, as nothing follows them.
void pack512(const TilePack& p) {
  const int64_t steps = p.row_bytes / 4;
  const __mmask16 mask = Vec512::mask(p.rows);
  const int64_t overhang = 16 / p.rows;  // steps that the unused end of a register may reach into
  int64_t step = 0;
  for (; step + 16 <= steps; step += 16) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      v[r] = r < p.rows ? _mm512_loadu_si512(static_cast<const char*>(p.x_rows[r]) + step * 4) : Vec512::zero();
    }
    transpose512(v);
    auto* out = static_cast<char*>(p.out) + step * p.rows * 4;
    if (step + 16 + overhang <= steps) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * p.rows * 4, v[i]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(out + i * p.rows * 4, mask, v[i]);
    }
  }
  pack_steps(p, step, steps);
  pack_half_step(p);
}

}  // namespace
}  // namespace keye::ops
