#include "ops/cpu/linear_dispatch.h"

namespace keye::ops {

const LinearKernels* linear_kernels(Isa isa) {
  switch (isa) {
#if defined(KEYE_X86)
    case Isa::avx2:
      return &linear_kernels_avx2();
    case Isa::avx512:
      return &linear_kernels_avx512();
    case Isa::avx512_bf16:
      return &linear_kernels_avx512_bf16();
#endif
    default:
      return nullptr;
  }
}

const CodeKernels* code_kernels(Isa isa) {
#if defined(KEYE_X86)
  static const bool tables = has_vbmi();
  if (tables && isa == Isa::avx512) return &code_kernels_vbmi();
  if (tables && isa == Isa::avx512_bf16) return &code_kernels_vbmi_bf16();
  if (isa != Isa::scalar) return &code_kernels_avx2();
#endif
  static_cast<void>(isa);
  return nullptr;
}

}  // namespace keye::ops
