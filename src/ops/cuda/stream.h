// What kernels' sources need of the runtime. No library code: nvcc compiles what includes this.
#pragma once

#include <cstddef>

namespace keye::ops::cuda {

/// A cudaStream_t; null in the emulator.
using Stream = void*;

/// Ends the process with the runtime's message if `status` (a cudaError_t) is an error: only our own bugs, or a device
/// that failed, can cause one here.
void check_cuda(int status, const char* what);
/// Lets a kernel use so many bytes of dynamic shared memory.
void allow_shared_bytes(const void* kernel, size_t bytes);

}  // namespace keye::ops::cuda
