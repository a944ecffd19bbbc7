// CUDA's device language as this room uses it: from nvcc, or from the emulator, which runs the same source on the CPU.
//
// Kernels are plain __global__ templates. Warp collectives are called by all 32 lanes together; dynamic shared memory
// is dynamic_shared<T>(), 1024-byte aligned. Tensor-core instructions are in mma.h, numbers in number.h.
#pragma once

#ifdef KEYE_CUDA_EMULATOR
#include "ops/cuda/emulator.h"
#else
#include <cuda_runtime.h>

#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char keye_dynamic_shared[];
  return reinterpret_cast<T*>(keye_dynamic_shared);
}

/// Kernels overlap: one may start while the one before it ends. Each begins with begin_kernel(), which waits until all
/// that ran before is done and visible; what comes before that must read nothing that another kernel writes.
__device__ __forceinline__ void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Starts kernel(args...) on the stream. More than 48 KiB of shared memory is asked for once per kernel.
template <class... Parameters, class... Arguments>
void launch(Stream stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shared_bytes > 48 * 1024) allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "kernel launch");
}

}  // namespace keye::ops::cuda
#endif
