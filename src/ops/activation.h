// What may follow a matrix product.
#pragma once

#include <cstdint>

namespace keye::ops {

enum class Activation : uint8_t {
  none,
  silu_mul,   // gated weights only: silu(gate) * up; the output has half as many columns
  gelu_tanh,  // 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))
  gelu_erf,   // 0.5 z (1 + erf(z / sqrt(2)))
};

}  // namespace keye::ops
