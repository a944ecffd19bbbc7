#include "tensor/dtype.h"

#include <cmath>
#include <cstring>

#include "base/check.h"

namespace keye {
namespace {

struct Row {
  DType dtype;
  size_t bytes;
  std::string_view name;
  std::string_view safetensors;
};

constexpr Row kTable[] = {
    {DType::f32, 4, "f32", "F32"},    {DType::f16, 2, "f16", "F16"},
    {DType::bf16, 2, "bf16", "BF16"}, {DType::f8_e4m3, 1, "f8_e4m3", "F8_E4M3"},
    {DType::i64, 8, "i64", "I64"},    {DType::i32, 4, "i32", "I32"},
    {DType::u64, 8, "u64", "U64"},    {DType::i8, 1, "i8", "I8"},
    {DType::u8, 1, "u8", "U8"},       {DType::boolean, 1, "bool", "BOOL"},
};

const Row& row(DType dtype) {
  const Row& found = kTable[static_cast<size_t>(dtype)];
  KEYE_CHECK(found.dtype == dtype);
  return found;
}

}  // namespace

size_t dtype_bytes(DType dtype) { return row(dtype).bytes; }
std::string_view dtype_name(DType dtype) { return row(dtype).name; }
std::string_view dtype_to_safetensors(DType dtype) { return row(dtype).safetensors; }

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const Row& entry : kTable) {
    if (entry.safetensors == name) return entry.dtype;
  }
  return std::nullopt;
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float value = std::ldexp(static_cast<float>(mantissa), -24);
  return sign != 0 ? -value : value;
}

uint8_t float_to_f8(float value) {
  const auto word = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((word >> 24) & 0x80U);
  const uint32_t magnitude = word & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return 0x7f;
  if (magnitude >= std::bit_cast<uint32_t>(kF8Max)) return sign | 0x7e;
  // Below 2^-6 the codes are 2^-9 apart: adding 1.5 * 2^14 leaves the rounded number of steps in the lowest bits.
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6F)) {
    const float steps = std::bit_cast<float>(magnitude) + 0x1.8p14F;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(steps) - std::bit_cast<uint32_t>(0x1.8p14F));
  }
  // 20 bits of the mantissa go; a carry moves on into the exponent, as it should.
  const uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120U << 3));
}

float f8_to_float(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80U) << 24;
  const uint32_t magnitude = bits & 0x7fU;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude + (120U << 3)) << 20));
  const float value = static_cast<float>(magnitude) * 0x1p-9F;
  return sign != 0 ? -value : value;
}

void convert_to_float(DType dtype, const void* src, float* dst, size_t count) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(dst, src, count * sizeof(float));
      return;
    case DType::bf16: {
      const auto* in = static_cast<const BFloat16*>(src);
      for (size_t i = 0; i < count; ++i) dst[i] = static_cast<float>(in[i]);
      return;
    }
    case DType::f16: {
      const auto* in = static_cast<const uint16_t*>(src);
      for (size_t i = 0; i < count; ++i) dst[i] = f16_to_float(in[i]);
      return;
    }
    case DType::f8_e4m3: {
      const auto* in = static_cast<const uint8_t*>(src);
      for (size_t i = 0; i < count; ++i) dst[i] = f8_to_float(in[i]);
      return;
    }
    case DType::i8: {
      const auto* in = static_cast<const int8_t*>(src);
      for (size_t i = 0; i < count; ++i) dst[i] = in[i];
      return;
    }
    default:
      KEYE_CHECK(false, "no conversion from {}", dtype_name(dtype));
  }
}

}  // namespace keye
