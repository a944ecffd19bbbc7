// Tensor-core products and asynchronous copies of compute capability 8.0 and later.
#pragma once

#include "ops/cuda/number.h"
#include "ops/cuda/simt.h"

namespace keye::ops::cuda {

// Fragments of mma.m16n8k16, for lane l with g = l / 4 and t = l % 4:
//   a[0] rows g,     columns 2t, 2t + 1        b[0] rows 2t, 2t + 1 (k), column g (n)
//   a[1] rows g + 8, columns 2t, 2t + 1        b[1] rows 2t + 8, 2t + 9, column g
//   a[2] rows g,     columns 2t + 8, 2t + 9    c[0], c[1] row g, columns 2t, 2t + 1
//   a[3] rows g + 8, columns 2t + 8, 2t + 9    c[2], c[3] row g + 8, columns 2t, 2t + 1

#ifdef KEYE_CUDA_EMULATOR

/// c += a b over one warp: a [16, 16] bf16, b [16, 8] bf16, c [16, 8] f32.
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using namespace emulator;
  const int lane = place().lane;
  std::memcpy(slot(lane), a, sizeof(a));
  std::memcpy(slot(lane) + sizeof(a), b, sizeof(b));
  warp_barrier();
  const auto word = [](int of, int index) {
    uint32_t value = 0;
    std::memcpy(&value, slot(of) + 4 * index, 4);
    return value;
  };
  const auto a_at = [&](int row, int k) {
    const uint32_t two = word(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2);
    return k % 2 == 0 ? low_float(two) : high_float(two);
  };
  const auto b_at = [&](int k, int column) {
    const uint32_t two = word(column * 4 + k % 8 / 2, 4 + k / 8);
    return k % 2 == 0 ? low_float(two) : high_float(two);
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    float sum = 0.0F;
    for (int k = 0; k < 16; ++k) sum += a_at(row, k) * b_at(k, column);
    c[i] += sum;
  }
  warp_barrier();
}

/// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 and
/// receives of each matrix the elements (l / 4, 2 (l % 4)) and the next.
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  using namespace emulator;
  const int lane = place().lane;
  for (int i = 0; i < 4; ++i) {
    const void* from = exchange(row, i * 8 + lane / 4);
    std::memcpy(&r[i], static_cast<const std::byte*>(from) + lane % 4 * 4, 4);
  }
}
/// The same of the transposed matrices: elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  using namespace emulator;
  const int lane = place().lane;
  for (int i = 0; i < 4; ++i) {
    uint16_t two[2];
    for (int j = 0; j < 2; ++j) {
      uint16_t all[8];
      const int source = i * 8 + lane % 4 * 2 + j;
      const void* from = exchange(row, source);
      // Lanes ask for different sources: exchange() gives each its own.
      std::memcpy(all, from, sizeof(all));
      two[j] = all[lane / 4];
    }
    std::memcpy(&r[i], two, 4);
  }
}

/// Starts a copy of 16 bytes to shared memory; zeros if not valid.
inline void copy_async(void* shared, const void* global, bool valid) {
  emulator::queue_copy(shared, global, 16, valid);
}
inline void commit_copies() { emulator::commit_copies(); }
/// Waits until at most `groups_left` of this thread's committed groups are under way.
template <int groups_left>
void wait_copies() {
  emulator::wait_copies(groups_left);
}

#else

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups_left>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

#endif

}  // namespace keye::ops::cuda
