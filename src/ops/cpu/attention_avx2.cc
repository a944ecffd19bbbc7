#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/cpu/attention_kernels.h"

namespace keye::ops {
namespace {

/// One AVX2 register of floats, for attention_loops.inc; what the members do is said in attention_lanes_avx512.inc.
struct Lanes {
  static constexpr int kCount = 8;
  static constexpr int kTileRegisters = 2;

  __m256 v;

  static Lanes zero() { return {_mm256_setzero_ps()}; }
  static Lanes splat(float value) { return {_mm256_set1_ps(value)}; }
  static Lanes load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Lanes load_first(const float* p, int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }

  static Lanes from_i8(const unsigned char* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  static Lanes from_f8(const unsigned char* p) {
    const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(0x7f));
    const __m256i normal = _mm256_slli_epi32(_mm256_add_epi32(magnitude, _mm256_set1_epi32(120 << 3)), 20);
    const __m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(0x1p-9F));
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
    const __m256i value = _mm256_blendv_epi8(normal, _mm256_castps_si256(small), is_small);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x80)), 24);
    return {_mm256_castsi256_ps(_mm256_or_si256(value, sign))};
  }
  void store_high_halves(unsigned char* p) const {
    const __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(v), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static void interleave_halves(Lanes& a, Lanes& b) {
    const __m256i x = _mm256_castps_si256(a.v);
    const __m256i y = _mm256_castps_si256(b.v);
    const __m256i low = _mm256_unpacklo_epi16(x, y);
    const __m256i high = _mm256_unpackhi_epi16(x, y);
    a.v = _mm256_castsi256_ps(_mm256_permute2x128_si256(low, high, 0x20));
    b.v = _mm256_castsi256_ps(_mm256_permute2x128_si256(low, high, 0x31));
  }
  static void transpose(Lanes (&x)[8]) {
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
      t[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
    }
    __m256 u[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      x[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
      x[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
  }

  Lanes or_minus_infinity(uint64_t word) const {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(word & 0xff)), bit);
    return {_mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)))};
  }
  Lanes power_of_two() const {
    const __m256 magic = _mm256_set1_ps(12582912.0F);  // adding 1.5 * 2^23 rounds to a whole number, in the lowest bits
    const __m256 x = _mm256_max_ps(_mm256_set1_ps(-127.0F), v);
    const __m256 rounded = _mm256_add_ps(x, magic);
    const __m256 fraction = _mm256_sub_ps(x, _mm256_sub_ps(rounded, magic));
    __m256 p = _mm256_set1_ps(0.001326472731307149F);
    p = _mm256_fmadd_ps(p, fraction, _mm256_set1_ps(0.009671512991189957F));
    p = _mm256_fmadd_ps(p, fraction, _mm256_set1_ps(0.05550733581185341F));
    p = _mm256_fmadd_ps(p, fraction, _mm256_set1_ps(0.24022242426872253F));
    p = _mm256_fmadd_ps(p, fraction, _mm256_set1_ps(0.6931470036506653F));
    p = _mm256_fmadd_ps(p, fraction, _mm256_set1_ps(1.0F));
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))};
  }
  Lanes with(int r, float x) const {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i here = _mm256_cmpeq_epi32(lane, _mm256_set1_epi32(r));
    return {_mm256_blendv_ps(v, _mm256_set1_ps(x), _mm256_castsi256_ps(here))};
  }
  Lanes splat_of(int r) const { return {_mm256_permutevar8x32_ps(v, _mm256_set1_epi32(r))}; }
  float largest() const {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  float first() const { return _mm256_cvtss_f32(v); }
  static float load_sum(const float* p) {
    const __m256 eight = _mm256_loadu_ps(p);  // AVX2 keeps its sums in the first eight
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  Lanes even_bf16() const { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16))}; }
  Lanes odd_bf16() const {
    return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(-65536)))};
  }
  Lanes rounded_to_bf16() const {
    const __m256i word = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return {_mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-65536)))};
  }

  friend Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend Lanes max(Lanes a, Lanes b) { return {_mm256_max_ps(a.v, b.v)}; }
  friend Lanes fused_minus(Lanes a, Lanes b, Lanes c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }
  friend Lanes fused(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
};

/// AttentionKernels::take.
int take(const float* scores, int count, int32_t threshold, int32_t first, int32_t* orders, int32_t* indices) {
  int taken = 0;
  for (int i = 0; i < count; i += 8) {
    const __m256 value = _mm256_add_ps(_mm256_loadu_ps(scores + i), _mm256_setzero_ps());
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i flipped = _mm256_and_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(INT32_MAX));
    const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256i order =
        _mm256_blendv_epi8(_mm256_xor_si256(bits, flipped), _mm256_set1_epi32(INT32_MIN + 1), _mm256_castps_si256(nan));
    const __m256i is_above = _mm256_cmpgt_epi32(order, _mm256_set1_epi32(threshold));
    auto above = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(is_above)));
    if (count - i < 8) above &= (1U << (count - i)) - 1;
    for (; above != 0; above &= above - 1, ++taken) {
      const int lane = __builtin_ctz(above);
      orders[taken] = order_of(scores[i + lane]);
      indices[taken] = first + i + lane;
    }
  }
  return taken;
}

constexpr int kF32BlockRows = 5;      // 10 sums, 2 operands and a factor in 16 registers
constexpr int kWidenedBlockRows = 4;  // 8 sums, 4 operands and 2 factors

}  // namespace
}  // namespace keye::ops

#include "ops/cpu/attention_loops.inc"

namespace keye::ops {

const AttentionKernels& avx2_attention_f32() {
  static constexpr AttentionKernels kernels = kernels_of<F32Product>(false);
  return kernels;
}

const AttentionKernels& avx2_attention_bf16() {
  static constexpr AttentionKernels kernels = kernels_of<WidenedProduct>(true);
  return kernels;
}

}  // namespace keye::ops
