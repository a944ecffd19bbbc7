// Elements of f32 and bf16 rows, one at a time.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace keye::ops {

inline float load_element(DType dtype, const void* data, int64_t i) {
  return dtype == DType::f32 ? static_cast<const float*>(data)[i]
                             : static_cast<float>(static_cast<const BFloat16*>(data)[i]);
}

inline void store_element(DType dtype, void* data, int64_t i, float value) {
  if (dtype == DType::f32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<BFloat16*>(data)[i] = BFloat16(value);
  }
}

}  // namespace keye::ops
