#include "ops/packed_matrix.h"

#include "base/check.h"

namespace keye::ops {

int64_t PackedMatrix::panels() const {
  return gated ? (outputs / 2 + kPanel / 2 - 1) / (kPanel / 2) : (outputs + kPanel - 1) / kPanel;
}

size_t PackedMatrix::panel_bytes() const {
  KEYE_DCHECK(dtype == DType::bf16 || dtype == DType::f32);
  const int64_t depth = dtype == DType::bf16 ? (inputs + 1) / 2 : inputs;  // steps of 4 bytes an output
  return static_cast<size_t>(depth) * kPanel * sizeof(float);
}

}  // namespace keye::ops
