#include <immintrin.h>

#include <cstdint>

namespace keye::ops {
namespace {

struct Lanes {
  __m512 v;

  static Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Lanes splat(float value) { return {_mm512_set1_ps(value)}; }
  static Lanes widen_bf16(const uint16_t* p) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))};
  }
  static Lanes widen_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  /// As bf16, to nearest even, NaN kept; unlike vcvtneps2bf16, which flushes subnormal numbers.
  void store(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bf16_words()));
  }
  Lanes rounded_to_bf16() const { return {_mm512_castsi512_ps(_mm512_slli_epi32(bf16_words(), 16))}; }
  /// The Hadamard transform of the sixteen: strides 1, 2, 4, 8.
  Lanes butterfly() const {
    __m512 x = step(v, _mm512_permute_ps(v, 0xb1), 0xaaaa);
    x = step(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    x = step(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    return {step(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00)};
  }

  friend Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }

 private:
  __m512i bf16_words() const {
    const __m512i word = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(word, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
  }
  /// x + partner in the lower lane of each pair, partner - x in the `upper` ones.
  static __m512 step(__m512 x, __m512 partner, __mmask16 upper) {
    return _mm512_mask_sub_ps(_mm512_add_ps(x, partner), upper, partner, x);
  }
};

}  // namespace
}  // namespace keye::ops

#include "ops/cpu/row_loops.inc"

namespace keye::ops {
const RowKernels& avx512_row_kernels() { return kRowKernels; }
}  // namespace keye::ops
