#include "ops/cpu/linear_codes_vbmi.inc"

namespace keye::ops {

const CodeKernels& code_kernels_vbmi() {
  static const CodeKernels kernels = {
      .expand_bf16 = expand_bf16, .expand_f32 = code_kernels_avx2().expand_f32, .in_place = {}};
  return kernels;
}

}  // namespace keye::ops
