// The matrix kernels of an instruction set.
#pragma once

#include "ops/cpu/isa.h"
#include "ops/cpu/linear_kernels.h"

namespace keye::ops {

/// Null for Isa::scalar, which the reference serves.
const LinearKernels* linear_kernels(Isa isa);

/// Null for Isa::scalar. One version serves all others, as every AVX-512 processor runs it.
const CodeKernels* code_kernels(Isa isa);

}  // namespace keye::ops
