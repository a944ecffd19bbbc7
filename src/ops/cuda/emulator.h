// Runs CUDA kernels on the CPU, one fiber per thread and one block after another, so that their indexing, barriers and
// masks are tested on machines without a GPU. Speed and the device's rounding are not emulated. Asynchronous copies
// land when they are waited for, and fibers run from one collective to the next, in an order that a seed shuffles: a
// missing barrier or wait shows as a wrong result.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "ops/cuda/stream.h"

namespace keye::ops::cuda {
namespace emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}  // NOLINT: as CUDA's dim3
};

inline constexpr int kWarp = 32;
inline constexpr size_t kSlotBytes = 64;

/// What the running fiber knows of itself.
struct Place {
  Dim3 thread, block, block_size, grid;
  int lane = 0;
};
const Place& place();
std::byte* shared_memory();
void block_barrier();
void warp_barrier();
/// Lane `lane`'s part of what the running warp exchanges.
std::byte* slot(int lane);
void queue_copy(void* to, const void* from, size_t bytes, bool valid);
void commit_copies();
void wait_copies(int groups_left);

/// body() once for every thread of every block.
void run(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& body);
/// Another order of the fibers from now on.
void set_order_seed(uint32_t seed);

/// The value of lane `source`, which every lane must offer.
template <class T>
T exchange(const T& value, int source) {
  static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable_v<T>);
  std::memcpy(slot(place().lane), &value, sizeof(T));
  warp_barrier();
  T result;
  std::memcpy(&result, slot(source & (kWarp - 1)), sizeof(T));
  warp_barrier();
  return result;
}

}  // namespace emulator

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::shared_memory());
}

inline void begin_kernel() {}

template <class... Parameters, class... Arguments>
void launch(Stream, emulator::Dim3 grid, emulator::Dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  emulator::run(grid, block, shared_bytes, [&] { kernel(Parameters(arguments)...); });
}

}  // namespace keye::ops::cuda

// The language itself. CUDA has these names at global scope and as keywords.
// NOLINTBEGIN
using dim3 = keye::ops::cuda::emulator::Dim3;
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(n) alignas(n)
#define threadIdx (keye::ops::cuda::emulator::place().thread)
#define blockIdx (keye::ops::cuda::emulator::place().block)
#define blockDim (keye::ops::cuda::emulator::place().block_size)
#define gridDim (keye::ops::cuda::emulator::place().grid)

inline void __syncthreads() { keye::ops::cuda::emulator::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffU) { keye::ops::cuda::emulator::warp_barrier(); }
template <class T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
  const int lane = keye::ops::cuda::emulator::place().lane;
  return keye::ops::cuda::emulator::exchange(value, lane / width * width + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  const int lane = keye::ops::cuda::emulator::place().lane;
  const int source = lane ^ mask;
  return keye::ops::cuda::emulator::exchange(value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = keye::ops::cuda::emulator::place().lane;
  const int source = lane + delta;
  return keye::ops::cuda::emulator::exchange(value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = keye::ops::cuda::emulator::place().lane;
  return keye::ops::cuda::emulator::exchange(value, lane % width >= delta ? lane - delta : lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  using namespace keye::ops::cuda::emulator;
  const int mine = predicate != 0 ? 1 : 0;
  std::memcpy(slot(place().lane), &mine, sizeof(mine));
  warp_barrier();
  unsigned result = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    int value = 0;
    std::memcpy(&value, slot(lane), sizeof(value));
    result |= static_cast<unsigned>(value) << lane;
  }
  warp_barrier();
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffU; }
inline int __syncthreads_or(int predicate) {
  __shared__ int any;
  __syncthreads();
  if (threadIdx.x == 0) any = 0;
  __syncthreads();
  if (predicate) any = 1;
  __syncthreads();
  return any;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}
template <class T>
T atomicMin(T* p, T value) {
  const T old = *p;
  *p = std::min(old, value);
  return old;
}
template <class T>
T atomicOr(T* p, T value) {
  const T old = *p;
  *p = old | value;
  return old;
}
using std::isnan;
using std::max;
using std::min;
// NOLINTEND
