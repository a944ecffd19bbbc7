// Element types and the conversions between the floating ones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace keye {

enum class DType : uint8_t { f32, f16, bf16, f8_e4m3, i64, i32, u64, i8, u8, boolean };

size_t dtype_bytes(DType dtype);
/// "f32", "bf16", ...: as flags and reports spell it.
std::string_view dtype_name(DType dtype);
/// From safetensors' spelling ("F32", "BF16", "F8_E4M3", "I64", ...), or nothing.
std::optional<DType> dtype_from_safetensors(std::string_view name);
std::string_view dtype_to_safetensors(DType dtype);
constexpr bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f8_e4m3;
}

/// bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  explicit BFloat16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    if ((word & 0x7fffffffU) > 0x7f800000U) {
      bits = static_cast<uint16_t>((word >> 16) | 0x40U);
    } else {
      bits = static_cast<uint16_t>((word + 0x7fffU + ((word >> 16) & 1U)) >> 16);
    }
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(BFloat16) == 2);

float f16_to_float(uint16_t bits);

/// e4m3fn: a sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, and 0x7f is NaN.
inline constexpr float kF8Max = 448.0F;
/// The nearest code, ties to even, after clamping to [-448, 448]; of NaN 0x7f.
uint8_t float_to_f8(float value);
float f8_to_float(uint8_t bits);

/// dst[i] = float(src[i]) for i < count; src is f32, f16, bf16, f8_e4m3 or i8.
void convert_to_float(DType dtype, const void* src, float* dst, size_t count);

}  // namespace keye
