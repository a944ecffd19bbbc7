#include <immintrin.h>

#include <cstddef>
#include <cstdint>

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
