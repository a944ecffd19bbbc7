#include "ops/quantize_row.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace keye::ops {
namespace {

float largest(const float* x, int dim) {
  float most = 0;
  for (int i = 0; i < dim; ++i) most = std::max(most, std::abs(x[i]));
  return most;
}

}  // namespace

void quantize_row(DType dtype, const float* x, int dim, void* codes, float* scale) {
  const bool i8 = dtype == DType::i8;
  KEYE_CHECK(i8 || dtype == DType::f8_e4m3, "rows of {}", dtype_name(dtype));
  const float most = i8 ? 127.0F : kF8Max;
  *scale = largest(x, dim) / most;
  // A scale so small that its inverse is infinite: the row is as good as zero.
  const float inverse = *scale > 0x1p-120F ? 1.0F / *scale : 0.0F;
  if (inverse == 0.0F) *scale = 0.0F;
  if (i8) {
    for (int i = 0; i < dim; ++i) {
      constexpr float kMagic = 0x1.8p23F;  // adding it rounds to a whole number
      const float bounded = std::min(most, std::max(-most, x[i] * inverse));
      static_cast<int8_t*>(codes)[i] = static_cast<int8_t>((bounded + kMagic) - kMagic);
    }
  } else {
    for (int i = 0; i < dim; ++i) static_cast<uint8_t*>(codes)[i] = float_to_f8(x[i] * inverse);
  }
}

void round_row_to_f8(float* x, int dim) {
  const float ratio = std::max(1e-4F, largest(x, dim)) * (1.0F / kF8Max);
  int exponent = 0;
  const float fraction = std::frexp(ratio, &exponent);  // in [1/2, 1): the logarithm's ceiling is the exponent, unless
  if (fraction == 0.5F) --exponent;                     // the ratio is a power of two
  const float scale = std::ldexp(1.0F, exponent);
  const float inverse = std::ldexp(1.0F, -exponent);
  for (int i = 0; i < dim; ++i) {
    // float_to_f8 and back, without a branch; nothing here exceeds 448.
    const float value = x[i] * inverse;
    const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffffU;
    const float normal = std::bit_cast<float>((magnitude + 0x7ffffU + ((magnitude >> 20) & 1U)) & 0x7ff00000U);
    const float steps = (std::bit_cast<float>(magnitude) + 0x1.8p14F) - 0x1.8p14F;
    x[i] = std::copysign(magnitude < std::bit_cast<uint32_t>(0x1p-6F) ? steps : normal, value) * scale;
  }
}

}  // namespace keye::ops
