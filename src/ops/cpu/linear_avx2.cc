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

/// Sixteen e4m3 codes as bf16. A normal number's exponent is moved by the difference of the biases, 120; the seven
/// subnormal ones, multiples of 2^-9, are looked up.
KEYE_INLINE __m256i widen_codes(__m128i codes) {
  const __m256i wide = _mm256_cvtepu8_epi16(codes);
  const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
  const __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
  // Of 0 to 7 times 2^-9: the lower and the upper bytes.
  const __m256i lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(
      0, 0, static_cast<char>(0x80), static_cast<char>(0xc0), 0, 0x20, 0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i upper =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i none = _mm256_set1_epi16(static_cast<int16_t>(0x8000));  // an index of 0x80 gives zero
  const __m256i small = _mm256_or_si256(
      _mm256_shuffle_epi8(lower, _mm256_or_si256(magnitude, none)),
      _mm256_shuffle_epi8(upper, _mm256_or_si256(_mm256_slli_epi16(magnitude, 8), _mm256_set1_epi16(0x0080))));
  const __m256i is_normal = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(7));
  return _mm256_or_si256(sign, _mm256_blendv_epi8(small, normal, is_normal));
}

KEYE_INLINE __m256i widen_codes_at(const uint8_t* codes) {
  return widen_codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

void expand_bf16(const uint8_t* codes, int64_t steps, void* panel) {
  auto* out = static_cast<char*>(panel);
  for (int64_t i = 0; i < steps * 4; ++i, codes += 16, out += 32) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), widen_codes_at(codes));
  }
}

/// The even elements of a pair become one row of floats, the odd ones the next.
void expand_f32(const uint8_t* codes, int64_t inputs, void* panel) {
  auto* out = static_cast<float*>(panel);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  for (int64_t input = 0; input < inputs; input += 2, out += 2 * kTileLanes) {
    for (int lane = 0; lane < kTileLanes; lane += 8, codes += 16) {
      const __m256i pairs = widen_codes_at(codes);
      _mm256_storeu_ps(out + lane, _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
      if (input + 1 == inputs) continue;
      _mm256_storeu_ps(out + kTileLanes + lane, _mm256_castsi256_ps(_mm256_and_si256(pairs, upper)));
    }
  }
}

constexpr CodeKernels kCodeKernels = {.expand_bf16 = expand_bf16, .expand_f32 = expand_f32, .in_place = {}};

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

const CodeKernels& code_kernels_avx2() { return kCodeKernels; }
const LinearKernels& linear_kernels_avx2() { return kKernels; }

}  // namespace keye::ops
