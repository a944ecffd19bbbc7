// Number formats on the device.
#pragma once

#include <cstdint>

#include "ops/cuda/simt.h"

#ifdef KEYE_CUDA_EMULATOR
#include "tensor/dtype.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#endif

namespace keye::ops::cuda {

/// A bfloat16's bits.
struct bf16 {
  uint16_t bits;
};
/// An e4m3's bits.
struct f8 {
  uint8_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ float to_float(int8_t x) { return static_cast<float>(x); }
/// The two bf16 numbers in a word: the lower half comes first in memory.
__device__ __forceinline__ float low_float(uint32_t two) { return __uint_as_float(two << 16); }
__device__ __forceinline__ float high_float(uint32_t two) { return __uint_as_float(two & 0xffff0000U); }

#ifdef KEYE_CUDA_EMULATOR
inline bf16 to_bf16(float x) { return {BFloat16(x).bits}; }
inline uint32_t two_bf16(float low, float high) {
  return static_cast<uint32_t>(BFloat16(low).bits) | static_cast<uint32_t>(BFloat16(high).bits) << 16;
}
inline float to_float(f8 x) { return f8_to_float(x.bits); }
inline f8 to_f8(float x) { return {float_to_f8(x)}; }
#else
__device__ __forceinline__ bf16 to_bf16(float x) { return {__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  uint32_t two;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}
__device__ __forceinline__ float to_float(f8 x) {
  return static_cast<float>(*reinterpret_cast<const __nv_fp8_e4m3*>(&x.bits));
}
/// Nearest, ties to even, after clamping to [-448, 448].
__device__ __forceinline__ f8 to_f8(float x) {
  return {static_cast<uint8_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3))};
}
#endif

/// Four neighbours, aligned.
__device__ __forceinline__ float4 load_four(const float* x) { return *reinterpret_cast<const float4*>(x); }
__device__ __forceinline__ float4 load_four(const bf16* x) {
  const uint2 two = *reinterpret_cast<const uint2*>(x);
  return make_float4(low_float(two.x), high_float(two.x), low_float(two.y), high_float(two.y));
}

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return to_bf16(x);
  }
}

}  // namespace keye::ops::cuda
