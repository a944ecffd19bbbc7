// Hopper's products of few rows (sm_90a): the copy engine streams the weights, boxes of 64 outputs by 64 inputs,
// through shared memory, as fast as the memory gives them. The sums are those of gemm.cu, in the same order.
#include <cuda_runtime.h>

#include "ops/cuda/activations.h"
#include "ops/cuda/gemm_few.h"
#include "ops/cuda/gemm_finish.h"
#include "ops/cuda/gemm_wgmma.h"
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/mma.h"

namespace keye::ops::cuda {
namespace {

constexpr int kBox = 64;
constexpr int kBoxBytes = kBox * kBox * 2;
constexpr int kWarps = 4;  // that multiply, 16 outputs each
constexpr int kThreads = 32 * (kWarps + 1);
constexpr int kBoxes = 2;  // of a stage, one after another along the inputs
constexpr int kStages = 6;
constexpr int kStageBytes = kBoxes * kBoxBytes;
constexpr int kDepth = kBoxes * kBox;  // inputs of a stage
constexpr int kSharedBytes = kStages * (kStageBytes + 16) + 1024;

/// The rows' inputs [128 step, 128 step + 128) as fragments: of row 8 tile + lane / 4 the inputs 2 (lane % 4) and the
/// next, and the same 8 further on, of each 16.
template <int kTiles>
struct Inputs {
  uint32_t words[kTiles][kDepth / 16][2];

  __device__ __forceinline__ void load(const bf16* const (&rows)[kTiles], int step, int stride) {
    const int first = step * kDepth + static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = first + 16 * k + 8 * half;
          words[tile][k][half] =
              rows[tile] != nullptr && at < stride ? *reinterpret_cast<const uint32_t*>(rows[tile] + at) : 0U;
        }
      }
    }
  }
};

template <int kTiles>
__global__ void __launch_bounds__(kThreads) few_kernel(const __grid_constant__ GemmArguments a, size_t map_offset) {
  extern __shared__ unsigned char dynamic[];
  const uint32_t shared = (hopper::shared_address(dynamic) + 1023U) & ~1023U;
  unsigned char* const ring = dynamic + (shared - hopper::shared_address(dynamic));
  const auto there = [&](int stage) { return shared + kStages * kStageBytes + 16 * stage; };
  const auto used = [&](int stage) { return there(stage) + 8; };
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(there(stage), 1);
      hopper::init_barrier(used(stage), kWarps);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  // A dense product's weights are asked for before the kernels before this one are done.
  const bool grouped = a.table != nullptr;
  const bool is_producer = threadIdx.x >= 32 * kWarps;
  if (grouped || !is_producer) begin_kernel();
  const Group group = group_of_block(a);
  if (group.w == nullptr) return;
  const int stride = static_cast<int>(a.shape.stride);
  const int steps = (stride + kDepth - 1) / kDepth;
  const int first_output = static_cast<int>(blockIdx.x) * kBox;
  const int64_t first_row = group.begin + static_cast<int64_t>(blockIdx.z) * (8 * kTiles);
  const int64_t row_step = static_cast<int64_t>(gridDim.z) * (8 * kTiles);
  if (is_producer) {
    if (threadIdx.x % 32 != 0) return;
    const void* map = static_cast<const unsigned char*>(group.w) + map_offset;
    hopper::acquire_map(map);
    int turn = 0;
    for (int64_t row = first_row; row < group.end; row += row_step) {
      for (int step = 0; step < steps; ++step, ++turn) {
        const int stage = turn % kStages;
        hopper::wait(used(stage), (static_cast<uint32_t>(turn / kStages) & 1U) ^ 1U);
        hopper::arrive_expecting(there(stage), kStageBytes);
#pragma unroll
        for (int box = 0; box < kBoxes; ++box) {
          hopper::load_box(map, there(stage), shared + stage * kStageBytes + box * kBoxBytes,
                           step * kDepth + box * kBox, first_output);
        }
      }
    }
    return;
  }
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  int turn = 0;
  for (int64_t begin = first_row; begin < group.end; begin += row_step) {
    const bf16* rows[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t p = begin + 8 * tile + lane / 4;
      rows[tile] = nullptr;
      if (p < group.end) {
        rows[tile] = static_cast<const bf16*>(a.x) + static_cast<int64_t>(a.rows == nullptr ? p : a.rows[p]) * stride;
      }
    }
    float sums[kTiles][4] = {};
    Inputs<kTiles> now;
    now.load(rows, 0, stride);
    for (int step = 0; step < steps; ++step, ++turn) {
      const int stage = turn % kStages;
      Inputs<kTiles> next;
      if constexpr (kTiles == 1) next.load(rows, step + 1, stride);
      hopper::wait(there(stage), static_cast<uint32_t>(turn / kStages) & 1U);
      const unsigned char* weights = ring + stage * kStageBytes + (16 * warp + lane % 16) * (kBox * 2);
      uint32_t fragments[kDepth / 16][4];
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
        load_matrices(fragments[k], weights + k / 4 * kBoxBytes + (((k % 4 * 2 + lane / 16) ^ (lane % 8)) * 16));
      }
      __syncwarp();
      if (lane == 0) hopper::arrive(used(stage));
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma_bf16(sums[tile], fragments[k], now.words[tile][k]);
      }
      if constexpr (kTiles == 1) {
        now = next;
      } else {
        now.load(rows, step + 1, stride);
      }
    }
    finish_tiles(a, sums, begin, group.end, first_output + 16 * warp);
  }
}

template <int kTiles>
void run(Stream stream, const GemmArguments& a) {
  allow_shared_bytes(reinterpret_cast<const void*>(&few_kernel<kTiles>), kSharedBytes);
  const bool grouped = a.table != nullptr;
  const int64_t most = (a.n + 8 * kTiles - 1) / (8 * kTiles);
  const auto blocks = static_cast<unsigned>((a.shape.outputs + kBox - 1) / kBox);
  const auto groups = static_cast<unsigned>(grouped ? (a.groups < a.n ? a.groups : a.n) : 1);
  const auto pieces = static_cast<unsigned>(grouped ? 1 : (most < 65535 ? most : 65535));
  launch(stream, dim3(blocks, groups, pieces), kThreads, kSharedBytes, few_kernel<kTiles>, a,
         weight_map_offset(a.shape.outputs, a.shape.stride));
}

}  // namespace

void gemm_few(Stream stream, const GemmArguments& a) {
  if (a.n == 0) return;
  const int64_t groups = a.table != nullptr ? a.groups : 1;
  const int64_t rows = (a.n + groups - 1) / groups;
  if (rows <= 6) return run<1>(stream, a);
  if (rows <= 14) return run<2>(stream, a);
  if (rows <= 32) return run<4>(stream, a);
  run<8>(stream, a);
}

}  // namespace keye::ops::cuda
