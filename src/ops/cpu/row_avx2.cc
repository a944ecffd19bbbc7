#include <immintrin.h>

#include <cstdint>

namespace keye::ops {
namespace {

/// Eight bf16 in 32-bit words, to nearest even, NaN kept.
__m256i rounded_bf16(__m256 v) {
  const __m256i word = _mm256_castps_si256(v);
  const __m256i high = _mm256_srli_epi32(word, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}

/// The Hadamard transform of eight: strides 1, 2, 4. The upper lane of each pair holds partner - x, which is
/// partner + (-x), by flipping x's sign.
__m256 butterfly8(__m256 x) {
  constexpr float m = -0.0F;
  const __m256 odd = _mm256_setr_ps(0, m, 0, m, 0, m, 0, m);
  const __m256 second = _mm256_setr_ps(0, 0, m, m, 0, 0, m, m);
  const __m256 upper = _mm256_setr_ps(0, 0, 0, 0, m, m, m, m);
  x = _mm256_add_ps(_mm256_permute_ps(x, 0xb1), _mm256_xor_ps(x, odd));
  x = _mm256_add_ps(_mm256_permute_ps(x, 0x4e), _mm256_xor_ps(x, second));
  return _mm256_add_ps(_mm256_permute2f128_ps(x, x, 1), _mm256_xor_ps(x, upper));
}

struct Lanes {
  __m256 a;
  __m256 b;

  static Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Lanes splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Lanes widen_bf16(const uint16_t* p) {
    const auto half = [](const uint16_t* from) {
      const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    };
    return {half(p), half(p + 8)};
  }
  static Lanes widen_f16(const uint16_t* p) {
    const auto half = [](const uint16_t* from) {
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    };
    return {half(p), half(p + 8)};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  /// As bf16, to nearest even, NaN kept.
  void store(uint16_t* p) const {
    const __m256i packed = _mm256_packus_epi32(rounded_bf16(a), rounded_bf16(b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  Lanes rounded_to_bf16() const {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(rounded_bf16(a), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(rounded_bf16(b), 16))};
  }
  /// The Hadamard transform of the sixteen: strides 1, 2, 4, 8.
  Lanes butterfly() const {
    const __m256 first = butterfly8(a);
    const __m256 second = butterfly8(b);
    return {_mm256_add_ps(first, second), _mm256_sub_ps(first, second)};
  }

  friend Lanes operator+(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  friend Lanes operator-(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  friend Lanes operator*(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
};

}  // namespace
}  // namespace keye::ops

#include "ops/cpu/row_loops.inc"

namespace keye::ops {
const RowKernels& avx2_row_kernels() { return kRowKernels; }
}  // namespace keye::ops
