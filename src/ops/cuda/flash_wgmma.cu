// A block has a warp that asks the copy engine for keys and values, and two warpgroups of 64 rows each that multiply:
// while one turns scores into weights, the other has the tensor cores.
#include "ops/cuda/flash_wgmma.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include "ops/cuda/flash.h"
#include "ops/cuda/hopper.cuh"

namespace keye::ops::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634F;
constexpr int kGroups = 2;  // of warps that multiply
constexpr int kTile = 64 * kGroups;
constexpr int kThreads = 128 * (kGroups + 1);

// Keys and values lie in shared memory as 64 rows of boxes: 64 columns each, swizzled over 128 bytes, and a rest of 16
// columns, swizzled over 32 bytes.
constexpr int kBoxBytes = kBlockKeys * 128;
constexpr int kRestBytes = kBlockKeys * 32;

template <int kKey>
struct Shape {
  static constexpr int kBoxes = kKey / 64;
  static constexpr bool kRest = kKey % 64 != 0;
  static_assert(kKey % 64 == 0 || kKey % 64 == 16);
  static constexpr int kTileBytes = kBoxes * kBoxBytes + (kRest ? kRestBytes : 0);
  static constexpr int kStages = 3;
  static constexpr int kTotalsOffset = 2 * kStages * kTileBytes;
};

/// What the parts before have summed up, for each thread that multiplies.
template <int kValue>
constexpr int kTotalsBytes = kValue / 2 * 128 * kGroups * 4;

/// Rows of 16 bf16 (32 bytes): 8 rows, or 8 inputs if the columns are the product's, are 256 bytes.
__device__ __forceinline__ uint64_t rest_descriptor(uint32_t shared) {
  return uint64_t{3} << 62 | uint64_t{256 >> 4} << 32 | uint64_t{1} << 16 | ((shared & 0x3ffffU) >> 4);
}
/// Boxes of 64 columns as the product's: 8 inputs are 1024 bytes, the next 64 columns a box further.
__device__ __forceinline__ uint64_t values_descriptor(uint32_t shared) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{kBoxBytes >> 4} << 16 | ((shared & 0x3ffffU) >> 4);
}

// d += a b: a [64, 16] in registers; b by its descriptor, with the inputs innermost (scores) or the columns (mixes).

#define KEYE_D4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define KEYE_D16(d, i) KEYE_D4(d, i), KEYE_D4(d, i + 1), KEYE_D4(d, i + 2), KEYE_D4(d, i + 3)
#define KEYE_A(a) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

__device__ __forceinline__ void multiply_scores(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred keep;\nsetp.eq.u32 keep, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, keep, 1, 1, 0;\n}\n"
      : KEYE_D16(d, 0), KEYE_D16(d, 4)
      : KEYE_A(a), "l"(b));
}
template <int kValue>
__device__ __forceinline__ void multiply_mix64(float (&d)[kValue / 8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred keep;\nsetp.eq.u32 keep, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, keep, 1, 1, 1;\n}\n"
      : KEYE_D16(d, 0), KEYE_D16(d, 4)
      : KEYE_A(a), "l"(b));
}
__device__ __forceinline__ void multiply_mix128(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred keep;\nsetp.eq.u32 keep, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, keep, 1, 1, 1;\n}\n"
      : KEYE_D16(d, 0), KEYE_D16(d, 4), KEYE_D16(d, 8), KEYE_D16(d, 12)
      : KEYE_A(a), "l"(b));
}
/// The 16 columns from 64 on, as columns 8 and 9 of eight.
__device__ __forceinline__ void multiply_mix_rest(float (&d)[10][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred keep;\nsetp.eq.u32 keep, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, %12, keep, 1, 1, 1;\n}\n"
      : KEYE_D4(d, 8), KEYE_D4(d, 9)
      : KEYE_A(a), "l"(b));
}

#undef KEYE_D4
#undef KEYE_D16
#undef KEYE_A

template <int kCount>
__device__ __forceinline__ void pin(float (&d)[kCount][4]) {
#pragma unroll
  for (int tile = 0; tile < kCount; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[tile][i])::"memory");
  }
}

/// Keeps registers that a product reads from being used for something else before it is done.
template <int kCount>
__device__ __forceinline__ void hold(uint32_t (&a)[kCount][4]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[k][i])::"memory");
  }
}

/// One tile's work, as each thread of the block sees it.
struct Work {
  int blocks;   // of 64 keys
  int seen[2];  // keys that the thread's rows see
};

/// Barriers: keys there, values there, both used, for each stage.
template <int kKey>
struct Ring {
  uint32_t shared;
  uint32_t barriers;

  __device__ __forceinline__ uint32_t keys(int stage) const { return shared + 2 * stage * Shape<kKey>::kTileBytes; }
  __device__ __forceinline__ uint32_t values(int stage) const { return keys(stage) + Shape<kKey>::kTileBytes; }
  __device__ __forceinline__ uint32_t keys_there(int stage) const { return barriers + 24 * stage; }
  __device__ __forceinline__ uint32_t values_there(int stage) const { return barriers + 24 * stage + 8; }
  __device__ __forceinline__ uint32_t used(int stage) const { return barriers + 24 * stage + 16; }
};

/// Maps of keys and values, boxes and rests; row(block, values): where a block's rows begin.
struct Maps {
  CUtensorMap keys, values, keys_rest, values_rest;
};

template <int kKey, class Row>
__device__ __forceinline__ void produce(const Maps& maps, const Ring<kKey>& ring, int blocks, const Row& row) {
  using S = Shape<kKey>;
  const auto load = [&](const CUtensorMap& map, const CUtensorMap& rest, uint32_t barrier, uint32_t to, int at) {
    hopper::arrive_expecting(barrier, S::kTileBytes);
#pragma unroll
    for (int box = 0; box < S::kBoxes; ++box) hopper::load_box(&map, barrier, to + box * kBoxBytes, 64 * box, at);
    if (S::kRest) hopper::load_box(&rest, barrier, to + S::kBoxes * kBoxBytes, 64 * S::kBoxes, at);
  };
  for (int block = 0; block < blocks; ++block) {
    const int stage = block % S::kStages;
    const uint32_t phase = static_cast<uint32_t>(block / S::kStages) & 1U;
    hopper::wait(ring.used(stage), phase ^ 1U);
    load(maps.keys, maps.keys_rest, ring.keys_there(stage), ring.keys(stage), row(block, false));
    load(maps.values, maps.values_rest, ring.values_there(stage), ring.values(stage), row(block, true));
  }
}

template <int kKey>
__device__ __forceinline__ int stage_of(int block) {
  return block % Shape<kKey>::kStages;
}
template <int kKey>
__device__ __forceinline__ uint32_t phase_of(int block) {
  return static_cast<uint32_t>(block / Shape<kKey>::kStages) & 1U;
}

/// Waits for a block's keys or values.
template <int kKey>
__device__ __forceinline__ void wait_for_keys(const Ring<kKey>& ring, int block) {
  hopper::wait(ring.keys_there(stage_of<kKey>(block)), phase_of<kKey>(block));
}
template <int kKey>
__device__ __forceinline__ void wait_for_values(const Ring<kKey>& ring, int block) {
  hopper::wait(ring.values_there(stage_of<kKey>(block)), phase_of<kKey>(block));
}
__device__ __forceinline__ void clear(float (&scores)[kBlockKeys / 8][4]) {
#pragma unroll
  for (int tile = 0; tile < kBlockKeys / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[tile][i] = 0.0F;
  }
}

// Between hopper::begin_products() and the wait, registers that products read or write must be left alone.

/// Begins scores += query keys^T for a block whose keys are there.
template <int kKey>
__device__ __forceinline__ void begin_scores(const Ring<kKey>& ring, int block, const uint32_t (&query)[kKey / 16][4],
                                             float (&scores)[kBlockKeys / 8][4]) {
  using S = Shape<kKey>;
#pragma unroll
  for (int k = 0; k < kKey / 16; ++k) {
    const uint32_t box = ring.keys(stage_of<kKey>(block)) + k / 4 * kBoxBytes;
    multiply_scores(scores, query[k],
                    k / 4 < S::kBoxes ? hopper::matrix_descriptor(box + k % 4 * 32) : rest_descriptor(box));
  }
  hopper::commit_products();
}

/// Begins mix += weights values for a block whose values are there.
template <int kKey, int kValue>
__device__ __forceinline__ void begin_mix(const Ring<kKey>& ring, int block,
                                          const uint32_t (&weights)[kBlockKeys / 16][4], Rows<kValue>& rows) {
  const uint32_t shared = ring.values(stage_of<kKey>(block));
#pragma unroll
  for (int k = 0; k < kBlockKeys / 16; ++k) {
    const uint64_t values = values_descriptor(shared + k * 16 * 128);
    if constexpr (kValue == 128) {
      multiply_mix128(rows.mix, weights[k], values);
    } else {
      multiply_mix64<kValue>(rows.mix, weights[k], values);
      if constexpr (kValue == 80) {
        multiply_mix_rest(rows.mix, weights[k],
                          rest_descriptor(shared + Shape<kKey>::kBoxes * kBoxBytes + k * 16 * 32));
      }
    }
  }
  hopper::commit_products();
}

/// Adds a finished part to the totals (states in registers, mixes in shared memory) and clears it, or, if it is the
/// last, the totals to it. The first part's numbers are the totals'.
template <int kValue>
__device__ __forceinline__ void finish_part(bool first, bool last, float c, float* totals, RowState (&total)[2],
                                            Rows<kValue>& rows) {
  rows.gather_sums();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    MergeFactors factors{0.0F, 1.0F};
    if (first) {
      total[half] = rows.state[half];
    } else {
      factors = merge_parts(total[half], rows.state[half], c);
    }
#pragma unroll
    for (int i = 0; i < kValue / 4; ++i) {
      float& mix = rows.mix[i / 2][2 * half + i % 2];
      float* const at = totals + (half * (kValue / 4) + i) * (128 * kGroups);
      if (!first) mix = merged(*at, mix, factors);
      if (!last) {
        *at = mix;
        mix = 0.0F;
      }
    }
    if (last) rows.state[half] = total[half];
  }
}

// The warpgroups take turns with the tensor cores: one multiplies while the other weighs. Barriers 1 and 2 are their
// turns.
__device__ __forceinline__ void wait_for_turn(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(128 * kGroups) : "memory");
}
__device__ __forceinline__ void give_turn(int group) {
  asm volatile("bar.arrive %0, %1;" ::"r"(2 - group), "n"(128 * kGroups) : "memory");
}

/// Leaves the result before the division in `rows`.
template <int kKey, int kValue, bool kParts>
__device__ __forceinline__ void consume(const Ring<kKey>& ring, const uint32_t (&query)[kKey / 16][4], const Work& work,
                                        float c, float* totals, Rows<kValue>& rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int group = static_cast<int>(threadIdx.x / 128);
  RowState total[2];
  float scores[kBlockKeys / 8][4];
  uint32_t weights[kBlockKeys / 16][4];
  float keep[2];
  rows.clear();
  if (group == 1) give_turn(group);  // the first one begins
  clear(scores);
  wait_for_keys<kKey>(ring, 0);
  pin(scores);
  hopper::begin_products();
  begin_scores<kKey>(ring, 0, query, scores);
  hopper::wait_products<0>();
  pin(scores);
  {
    const int limits[2] = {work.seen[0], work.seen[1]};
    weigh(scores, limits, c, rows.state, keep);
    pack_weights(scores, weights);
  }
  const int last = work.blocks - 1;
  for (int block = 0; block < last; ++block) {
    clear(scores);
    wait_for_keys<kKey>(ring, block + 1);
    wait_for_values<kKey>(ring, block);
    wait_for_turn(group);
    pin(scores);
    pin(rows.mix);
    hopper::begin_products();
    begin_scores<kKey>(ring, block + 1, query, scores);
    begin_mix<kKey, kValue>(ring, block, weights, rows);
    give_turn(group);
    // The next block's scores become weights while this one's values are mixed. A part begins afresh.
    const bool ends_part = kParts && (block + 1) % kBlocksPerPart == 0;
    RowState states[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      states[half].max = ends_part ? -INFINITY : rows.state[half].max;
      states[half].sum = ends_part ? 0.0F : rows.state[half].sum;
    }
    const int limits[2] = {work.seen[0] - (block + 1) * kBlockKeys, work.seen[1] - (block + 1) * kBlockKeys};
    hopper::wait_products<1>();
    pin(scores);
    weigh(scores, limits, c, states, keep);
    hopper::wait_products<0>();
    pin(rows.mix);
    hold(weights);
    if (lane == 0) hopper::arrive(ring.used(stage_of<kKey>(block)));
    if (kParts && ends_part) {
      finish_part(block < kBlocksPerPart, false, c, totals, total, rows);
    } else {
      rows.scale(keep);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.state[half] = states[half];
    pack_weights(scores, weights);
  }
  wait_for_values<kKey>(ring, last);
  wait_for_turn(group);
  pin(rows.mix);
  hopper::begin_products();
  begin_mix<kKey, kValue>(ring, last, weights, rows);
  if (group == 0) give_turn(group);
  hopper::wait_products<0>();
  pin(rows.mix);
  hold(weights);
  if constexpr (kParts) {
    finish_part(last < kBlocksPerPart, true, c, totals, total, rows);
  } else {
    rows.gather_sums();
  }
}

template <int kKey>
__device__ __forceinline__ Ring<kKey> make_ring(unsigned char* shared, int totals_bytes) {
  using S = Shape<kKey>;
  const Ring<kKey> ring{hopper::shared_address(shared),
                        hopper::shared_address(shared) + S::kTotalsOffset + totals_bytes};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      hopper::init_barrier(ring.keys_there(stage), 1);
      hopper::init_barrier(ring.values_there(stage), 1);
      hopper::init_barrier(ring.used(stage), 4 * kGroups);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  return ring;
}

__device__ __forceinline__ unsigned char* aligned_shared() {
  extern __shared__ unsigned char dynamic[];
  return dynamic + (-hopper::shared_address(dynamic) & 1023U);
}

// -- the decoder's -----------------------------------------------------------

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    paged_flash_kernel(const __grid_constant__ Maps maps, const __grid_constant__ PagedAttentionArguments a,
                       int few_pairs) {
  begin_kernel();
  using S = Shape<kDim>;
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.z];
  const int group = a.heads / a.k.heads;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int pairs = sequence.rows * group;
  const int tiles = (pairs + kTile - 1) / kTile;
  if (pairs <= few_pairs || static_cast<int>(blockIdx.x) >= tiles) return;
  const int begin = (tiles - 1 - static_cast<int>(blockIdx.x)) * kTile;  // the longest first
  const int end = min(begin + kTile, pairs);
  const int keys = sequence.context + (end - 1) / group + 1;
  Work work{(keys + kBlockKeys - 1) / kBlockKeys, {0, 0}};
  unsigned char* const shared = aligned_shared();
  constexpr int kTotals = kTotalsBytes<kDim>;
  const Ring<kDim> ring = make_ring<kDim>(shared, kTotals);
  if (threadIdx.x >= 128 * kGroups) {
    hopper::set_registers_down<24>();
    if (threadIdx.x == 128 * kGroups) {
      const int32_t* pages = a.sequences.pages + sequence.first_page;
      produce(maps, ring, work.blocks,
              [&](int block, bool) { return (pages[block] * a.k.heads + kv_head) * kBlockKeys; });
    }
    return;
  }
  hopper::set_registers_up<240>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_pair = begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  const bf16* queries[2];
  int64_t at[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = first_pair + 8 * half;
    const int token = pair / group;
    at[half] = static_cast<int64_t>(sequence.first_row + token) * a.heads + kv_head * group + pair % group;
    queries[half] = pair < end ? static_cast<const bf16*>(a.q) + at[half] * kDim : nullptr;
    work.seen[half] = pair < end ? sequence.context + token + 1 : 0;
  }
  uint32_t query[kDim / 16][4];
  load_query<kDim>(queries[0], queries[1], query);
  Rows<kDim> rows;
  auto* totals = reinterpret_cast<float*>(shared + S::kTotalsOffset) + threadIdx.x;
  consume<kDim, kDim, true>(ring, query, work, a.scale * kLog2E, totals, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (queries[half] == nullptr) continue;
    auto* out = reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.out) + at[half] * kDim);
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile) {
      out[4 * tile + lane % 4] = two_bf16(__fdiv_rn(rows.mix[tile][2 * half], rows.state[half].sum),
                                          __fdiv_rn(rows.mix[tile][2 * half + 1], rows.state[half].sum));
    }
  }
}

// -- the encoder's -----------------------------------------------------------

constexpr int kVisionWidth = 80;

__global__ void __launch_bounds__(kThreads, 1)
    segment_flash_kernel(const __grid_constant__ Maps maps, const __grid_constant__ VisionAttentionArguments a) {
  begin_kernel();
  using S = Shape<kVisionWidth>;
  const int first = a.segments[blockIdx.z];
  const int patches = a.segments[blockIdx.z + 1] - first;
  const int begin = static_cast<int>(blockIdx.x) * kTile;
  if (begin >= patches) return;
  const int head = static_cast<int>(blockIdx.y);
  const Work work{(patches + kBlockKeys - 1) / kBlockKeys, {patches, patches}};
  unsigned char* const shared = aligned_shared();
  const Ring<kVisionWidth> ring = make_ring<kVisionWidth>(shared, 0);
  if (threadIdx.x >= 128 * kGroups) {
    hopper::set_registers_down<24>();
    if (threadIdx.x == 128 * kGroups) {
      produce(maps, ring, work.blocks, [&](int block, bool values) {
        return ((values ? 2 : 1) * a.heads + head) * a.p + first + block * kBlockKeys;
      });
    }
    return;
  }
  hopper::set_registers_up<240>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  const bf16* queries =
      static_cast<const bf16*>(a.workspace) + (static_cast<int64_t>(head) * a.p + first) * kVisionWidth;
  uint32_t query[kVisionWidth / 16][4];
  load_query<kVisionWidth>(row < patches ? queries + static_cast<int64_t>(row) * kVisionWidth : nullptr,
                           row + 8 < patches ? queries + static_cast<int64_t>(row + 8) * kVisionWidth : nullptr, query);
  Rows<kVisionWidth> rows;
  consume<kVisionWidth, kVisionWidth, false>(ring, query, work, a.scale * kLog2E, nullptr, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= patches) continue;
    auto* out = reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.out) +
                                            (static_cast<int64_t>(first + row + 8 * half) * a.heads + head) * a.dim);
#pragma unroll
    for (int tile = 0; tile < kVisionWidth / 8; ++tile) {
      if (8 * tile + lane % 4 * 2 >= a.dim) continue;
      out[4 * tile + lane % 4] = two_bf16(__fdiv_rn(rows.mix[tile][2 * half], rows.state[half].sum),
                                          __fdiv_rn(rows.mix[tile][2 * half + 1], rows.state[half].sum));
    }
  }
}

// -- the host's side ---------------------------------------------------------

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

cudaError_t encode_map(CUtensorMap& map, const void* data, int64_t rows, int width, int box_columns) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<EncodeTiled>(result == cudaDriverEntryPointSuccess ? found : nullptr);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(width) * 2};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), kBlockKeys};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_32B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class... Parameters, class... Arguments>
cudaError_t start(Stream stream, dim3 grid, int shared_bytes, void (*kernel)(Parameters...), Arguments... arguments) {
  allow_shared_bytes(reinterpret_cast<const void*>(kernel), static_cast<size_t>(shared_bytes));
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

constexpr int kSlack = 1024 + 256;  // for alignment, and the barriers

template <int kDim>
cudaError_t paged(Stream stream, const PagedAttentionArguments& a, int few_pairs) {
  using S = Shape<kDim>;
  Maps maps{};
  constexpr int64_t kAnyRows = int64_t{1} << 31;  // how many pages there are is not known here, and not needed
  for (const auto& [map, plane] : {std::pair{&maps.keys, &a.k}, std::pair{&maps.values, &a.v}}) {
    if (const cudaError_t status = encode_map(*map, plane->data, kAnyRows, kDim, 64); status != cudaSuccess)
      return status;
  }
  const int pairs = a.sequences.rows_max * (a.heads / a.k.heads);
  const dim3 grid(static_cast<unsigned>((pairs + kTile - 1) / kTile), static_cast<unsigned>(a.k.heads),
                  static_cast<unsigned>(a.sequences.count));
  return start(stream, grid, S::kTotalsOffset + kTotalsBytes<kDim> + kSlack, paged_flash_kernel<kDim>, maps, a,
               few_pairs);
}

}  // namespace

int flash_paged(Stream stream, const PagedAttentionArguments& a, int few_pairs) {
  return a.k.dim == 128 ? paged<128>(stream, a, few_pairs) : paged<64>(stream, a, few_pairs);
}

int flash_segments(Stream stream, const VisionAttentionArguments& a) {
  using S = Shape<kVisionWidth>;
  Maps maps{};
  const int64_t rows = int64_t{3} * a.heads * a.p;
  if (const cudaError_t status = encode_map(maps.keys, a.workspace, rows, kVisionWidth, 64); status != cudaSuccess) {
    return status;
  }
  if (const cudaError_t status = encode_map(maps.keys_rest, a.workspace, rows, kVisionWidth, 16);
      status != cudaSuccess) {
    return status;
  }
  maps.values = maps.keys;
  maps.values_rest = maps.keys_rest;
  const dim3 grid(static_cast<unsigned>((a.segment_max + kTile - 1) / kTile), static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(a.segment_count));
  return start(stream, grid, S::kTotalsOffset + kSlack, segment_flash_kernel, maps, a);
}

}  // namespace keye::ops::cuda
