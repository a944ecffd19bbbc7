#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/cpu/attention_lanes_avx512.inc"
#include "ops/cpu/attention_loops.inc"

namespace keye::ops {

const AttentionKernels& avx512_attention_f32() {
  static constexpr AttentionKernels kernels = kernels_of<F32Product>(false);
  return kernels;
}

const AttentionKernels& avx512_attention_bf16() {
  static constexpr AttentionKernels kernels = kernels_of<WidenedProduct>(true);
  return kernels;
}

}  // namespace keye::ops
