// Hopper's instructions for bulk copies and warpgroup products (PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma).
// Device code for sm_90a only.
#pragma once

#include <cstdint>

namespace keye::ops::cuda::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Barriers in shared memory, by address. A phase ends when `arrivals` threads have arrived and all expected bytes are
// there. wait(parity) returns once the phase of that parity has ended; a fresh barrier's "phase before" has parity 1.

__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Lets the copy engine see the barriers this thread initialised; the CTA's threads need __syncthreads() besides.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
#ifdef KEYE_GEMM_WATCHDOG
  // A lost arrival ends the kernel with an error instead of holding the device for ever.
  if (try_wait(barrier, parity)) return;
  uint64_t start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  while (!try_wait(barrier, parity)) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (now - start > 2'000'000'000) __trap();
  }
#else
  while (!try_wait(barrier, parity)) {
  }
#endif
}

// Tensor maps.

/// Must come before this CTA's first use of a map in global memory: the host wrote it through another path than the one
/// that maps are read by, and an older map may have lain at the same address.
__device__ __forceinline__ void acquire_map(const void* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
__device__ __forceinline__ void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// Copies the map's box at (column, row) to shared memory. What lies outside the tensor arrives as zeros and counts as
/// bytes like the rest.
__device__ __forceinline__ void load_box(const void* map, uint32_t barrier, uint32_t to, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

// Warpgroup products.

template <int kCount>
__device__ __forceinline__ void set_registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void set_registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// Describes rows of 64 bf16 (128 bytes), as load_box() with 128-byte swizzle lays them out at a multiple of 1024
/// bytes: 8 rows are 1024 bytes (the stride); the leading offset is not used in this layout. 16 columns further on are
/// 32 bytes.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kLeading = uint64_t{1} << 16;
  return kSwizzle128 | kStride | kLeading | ((shared & 0x3ffffU) >> 4);
}

/// Orders this warp's register accesses before the products that follow.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most `kLeft` of the committed groups are under way.
template <int kLeft>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
/// Keeps the compiler from moving uses of the sums over this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// multiply(d, a, b): d += a b^T for 64 rows of a and 2 * size(d) rows of b, 16 columns each, by one warpgroup. Lane l
// of warp w holds in d[4 j + i] row 16 w + l / 4 + i / 2 * 8, column 8 j + l % 4 * 2 + i % 2.

// clang-format off
#define KEYE_R0_15 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define KEYE_R16_31 \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KEYE_R32_63 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KEYE_R64_95 \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define KEYE_R96_127 \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define KEYE_R0_31 KEYE_R0_15 ", " KEYE_R16_31
#define KEYE_R0_63 KEYE_R0_31 ", " KEYE_R32_63
#define KEYE_R0_95 KEYE_R0_63 ", " KEYE_R64_95
#define KEYE_R0_127 KEYE_R0_95 ", " KEYE_R96_127
#define KEYE_D8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define KEYE_D16(d, i) KEYE_D8(d, i), KEYE_D8(d, i + 8)
#define KEYE_D32(d, i) KEYE_D16(d, i), KEYE_D16(d, i + 16)
// The predicate keeps d (false would take zeros instead); then a and b as they are, and both with the inputs innermost.
#define KEYE_WGMMA(columns, registers, descriptors) \
  "{\n" \
  ".reg .pred keep;\n" \
  "setp.eq.u32 keep, 0, 0;\n" \
  "wgmma.mma_async.sync.aligned.m64" columns "k16.f32.bf16.bf16 {" registers "}, " descriptors ", keep, 1, 1, 0, 0;\n" \
  "}\n"
// clang-format on

__device__ __forceinline__ void multiply(float (&d)[16], uint64_t a, uint64_t b) {
  asm volatile(KEYE_WGMMA("n32", KEYE_R0_15, "%16, %17") : KEYE_D16(d, 0) : "l"(a), "l"(b));
}
__device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile(KEYE_WGMMA("n64", KEYE_R0_31, "%32, %33") : KEYE_D32(d, 0) : "l"(a), "l"(b));
}
__device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b) {
  asm volatile(KEYE_WGMMA("n128", KEYE_R0_63, "%64, %65") : KEYE_D32(d, 0), KEYE_D32(d, 32) : "l"(a), "l"(b));
}
__device__ __forceinline__ void multiply(float (&d)[96], uint64_t a, uint64_t b) {
  asm volatile(KEYE_WGMMA("n192", KEYE_R0_95, "%96, %97")
               : KEYE_D32(d, 0), KEYE_D32(d, 32), KEYE_D32(d, 64)
               : "l"(a), "l"(b));
}
__device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile(KEYE_WGMMA("n256", KEYE_R0_127, "%128, %129")
               : KEYE_D32(d, 0), KEYE_D32(d, 32), KEYE_D32(d, 64), KEYE_D32(d, 96)
               : "l"(a), "l"(b));
}

#undef KEYE_R0_15
#undef KEYE_R0_31
#undef KEYE_R0_63
#undef KEYE_R0_95
#undef KEYE_R0_127
#undef KEYE_R16_31
#undef KEYE_R32_63
#undef KEYE_R64_95
#undef KEYE_R96_127
#undef KEYE_D8
#undef KEYE_D16
#undef KEYE_D32
#undef KEYE_WGMMA

}  // namespace keye::ops::cuda::hopper
