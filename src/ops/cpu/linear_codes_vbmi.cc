#include <immintrin.h>

#include <array>

#include "ops/cpu/linear_kernels.h"

namespace keye::ops {
namespace {

/// One byte of the bf16 number for each e4m3 code without its sign. A normal number's exponent is moved by the difference
/// of the biases, 120; the seven subnormal ones are multiples of 2^-9.
constexpr std::array<unsigned char, 128> bytes_of_codes(int shift) {
  std::array<unsigned char, 128> bytes = {};
  constexpr int kSmall[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
  for (int code = 0; code < 128; ++code) {
    const int number = code < 8 ? kSmall[code] : (code << 4) + (120 << 7);
    bytes[static_cast<size_t>(code)] = static_cast<unsigned char>(number >> shift);
  }
  return bytes;
}
alignas(64) constexpr std::array<unsigned char, 128> kLower = bytes_of_codes(0);
alignas(64) constexpr std::array<unsigned char, 128> kUpper = bytes_of_codes(8);

/// Sixty-four codes at once: their bytes are looked up, and put side by side within each quarter of a register, for which
/// the codes are first arranged so that they end in order.
void expand_bf16(const uint8_t* codes, int64_t steps, void* panel) {
  auto* out = static_cast<char*>(panel);
  const __m512i lower[2] = {_mm512_load_si512(kLower.data()), _mm512_load_si512(kLower.data() + 64)};
  const __m512i upper[2] = {_mm512_load_si512(kUpper.data()), _mm512_load_si512(kUpper.data() + 64)};
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t i = 0; i < steps; ++i, codes += 64, out += 128) {
    const __m512i code = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes));
    const __m512i low = _mm512_permutex2var_epi8(lower[0], code, lower[1]);  // by the lower seven bits
    const __m512i magnitude = _mm512_permutex2var_epi8(upper[0], code, upper[1]);
    constexpr int kFirstOrBoth = 0xf8;  // a | (b & c)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, code, sign, kFirstOrBoth);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi8(low, high));
    _mm512_storeu_si512(out + 64, _mm512_unpackhi_epi8(low, high));
  }
}

}  // namespace

const CodeKernels& code_kernels_vbmi() {
  static constexpr CodeKernels kernels = {.expand_bf16 = expand_bf16, .expand_f32 = nullptr};
  return kernels;
}

}  // namespace keye::ops
