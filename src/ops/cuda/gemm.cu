#include "ops/cuda/activations.h"
#include "ops/cuda/gemm_finish.h"
#include "ops/cuda/gemm_kernels.h"
#include "ops/cuda/mma.h"

namespace keye::ops::cuda {
namespace {

// -- bf16 --------------------------------------------------------------------

constexpr int kDepth = 64;  // inputs of a stage: rows of 128 bytes
constexpr int kRowBytes = kDepth * 2;
constexpr int kChunks = kRowBytes / 16;

/// 16 bytes `chunk` of row `row` of a tile: swizzled, so that ldmatrix finds 8 rows in different banks.
__device__ __forceinline__ unsigned char* chunk_at(unsigned char* tile, int row, int chunk) {
  return tile + row * kRowBytes + ((chunk ^ (row % 8)) * 16);
}

template <int kWarps, int kTiles>
inline constexpr int kStageBytes = (kWarps * 16 + kTiles * 8) * kRowBytes;

/// A block multiplies 16 kWarps outputs by up to 8 kTiles rows at a time: weights are the rows of the tensor cores'
/// product, so that a single row of x wastes none of their loads. Stages of 64 inputs go round a ring in shared memory.
template <int kWarps, int kTiles, int kStages>
__global__ void __launch_bounds__(32 * kWarps) bf16_kernel(GemmArguments a) {
  begin_kernel();
  constexpr int kRows = 8 * kTiles;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Group group = group_of_block(a);
  if (group.w == nullptr) return;
  auto* ring = dynamic_shared<unsigned char>();
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * (16 * kWarps);
  const int64_t stride = a.shape.stride;
  const int steps = static_cast<int>((stride + kDepth - 1) / kDepth);
  const auto* w = static_cast<const bf16*>(group.w);
  const auto* x = static_cast<const bf16*>(a.x);

  for (int64_t begin = group.begin + static_cast<int64_t>(blockIdx.z) * kRows; begin < group.end;
       begin += static_cast<int64_t>(gridDim.z) * kRows) {
    const auto load = [&](int step) {
      unsigned char* stage = ring + step % kStages * kStageBytes<kWarps, kTiles>;
      const int64_t k = static_cast<int64_t>(step) * kDepth;
#pragma unroll
      for (int i = static_cast<int>(threadIdx.x); i < kWarps * 16 * kChunks; i += 32 * kWarps) {
        const int row = i / kChunks;
        const int chunk = i % kChunks;
        const bool valid = first_output + row < a.shape.outputs && k + chunk * 8 < stride;
        const bf16* from = valid ? w + (first_output + row) * stride + k + chunk * 8 : w;
        copy_async(chunk_at(stage, row, chunk), from, valid);
      }
      stage += kWarps * 16 * kRowBytes;
      for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += 32 * kWarps) {
        const int row = i / kChunks;
        const int chunk = i % kChunks;
        const int64_t p = begin + row;
        const bool valid = p < group.end && k + chunk * 8 < stride;
        const bf16* from = x;
        if (valid) from += static_cast<int64_t>(a.rows == nullptr ? p : a.rows[p]) * stride + k + chunk * 8;
        copy_async(chunk_at(stage, row, chunk), from, valid);
      }
    };
    float sums[kTiles][4] = {};
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load(step);
      commit_copies();
    }
    for (int step = 0; step < steps; ++step) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this stage has landed for all, and all are done with the one before
      if (step + kStages - 1 < steps) load(step + kStages - 1);
      commit_copies();
      unsigned char* stage = ring + step % kStages * kStageBytes<kWarps, kTiles>;
      unsigned char* weights = stage + warp * 16 * kRowBytes;
      unsigned char* rows = stage + kWarps * 16 * kRowBytes;
#pragma unroll
      for (int k = 0; k < kDepth / 32; ++k) {
        uint32_t fragments[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          load_matrices(fragments[half], chunk_at(weights, lane % 16, 4 * k + 2 * half + lane / 16));
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          uint32_t both[4];
          load_matrices(both, chunk_at(rows, 8 * tile + lane % 8, 4 * k + lane / 8));
          mma_bf16(sums[tile], fragments[0], {both[0], both[1]});
          mma_bf16(sums[tile], fragments[1], {both[2], both[3]});
        }
      }
    }
    __syncthreads();  // before the ring is filled again
    finish_tiles(a, sums, begin, group.end, first_output + warp * 16);
  }
}

template <int kWarps, int kTiles, int kStages>
void run_bf16(Stream stream, const GemmArguments& a) {
  const int64_t per_block = 16 * kWarps;
  const auto blocks = static_cast<unsigned>((a.shape.outputs + per_block - 1) / per_block);
  const bool grouped = a.table != nullptr;
  const int64_t most = (a.n + 8 * kTiles - 1) / (8 * kTiles);
  const auto groups = static_cast<unsigned>(grouped ? (a.groups < a.n ? a.groups : a.n) : 1);
  // Groups are short here; a dense product gets a block for each piece of rows.
  const auto pieces = static_cast<unsigned>(grouped ? 1 : (most < 65535 ? most : 65535));
  launch(stream, dim3(blocks, groups, pieces), 32 * kWarps, kStages * kStageBytes<kWarps, kTiles>,
         bf16_kernel<kWarps, kTiles, kStages>, a);
}

// -- f32 ---------------------------------------------------------------------

constexpr int kF32Warps = 4;
constexpr int kF32Rows = 16;  // of a warp, where there are many

/// A warp multiplies kOutputs outputs by kRows rows; its lanes share the inputs out, four at a time.
template <int kRows, int kOutputs>
__global__ void __launch_bounds__(32 * kF32Warps) f32_kernel(GemmArguments a) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Group group = group_of_block(a);
  if (group.w == nullptr) return;
  const bool gated = a.activation == Activation::silu_mul;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kF32Warps + threadIdx.x / 32;
  constexpr int kPairs = kOutputs / 2;  // gated: rows of gate and as many of up
  const auto row_of = [&](int i) {
    if (!gated) return unit * kOutputs + i;
    const int64_t pair = unit * kPairs + i % kPairs;
    return pair / 8 * 16 + pair % 8 + i / kPairs * 8;
  };
  if (row_of(0) >= a.shape.outputs) return;
  const auto* w = static_cast<const float*>(group.w);
  const auto* x = static_cast<const float*>(a.x);
  const int64_t stride = a.shape.stride;
  for (int64_t begin = group.begin + static_cast<int64_t>(blockIdx.z) * kRows; begin < group.end;
       begin += static_cast<int64_t>(gridDim.z) * kRows) {
    float sums[kRows][kOutputs] = {};
    const float* rows[kRows];
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      const int64_t p = min(begin + t, group.end - 1);
      rows[t] = x + static_cast<int64_t>(a.rows == nullptr ? p : a.rows[p]) * stride;
    }
    for (int64_t k = 4 * lane; k < stride; k += 128) {
      float4 weights[kOutputs];
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        const int64_t row = min(row_of(i), a.shape.outputs - 1);
        weights[i] = *reinterpret_cast<const float4*>(w + row * stride + k);
      }
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        const float4 value = *reinterpret_cast<const float4*>(rows[t] + k);
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) {
          float& sum = sums[t][i];
          sum = fmaf(value.x, weights[i].x, sum);
          sum = fmaf(value.y, weights[i].y, sum);
          sum = fmaf(value.z, weights[i].z, sum);
          sum = fmaf(value.w, weights[i].w, sum);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      float mine = 0.0F;  // lane i: of output i
      float up = 0.0F;    // of output i + kPairs
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        float sum = sums[t][i];
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
        if (lane == i) mine = sum;
        if (lane == i - kPairs) up = sum;
      }
      if (begin + t >= group.end) continue;
      if (gated) {
        const int64_t column = unit * kPairs + lane;
        if (lane < kPairs && column < a.columns) store(a, begin + t, column, __fmul_rn(silu(mine), up));
      } else {
        const int64_t column = unit * kOutputs + lane;
        if (lane < kOutputs && column < a.columns) {
          if (a.bias != nullptr) mine = __fadd_rn(mine, a.bias[column]);
          store(a, begin + t, column, activate(mine, a.activation));
        }
      }
    }
  }
}

}  // namespace

void gemm_bf16(Stream stream, const GemmArguments& a, int processors) {
  if (a.n == 0) return;
  const int64_t groups = a.table != nullptr ? a.groups : 1;
  const int64_t rows = (a.n + groups - 1) / groups;
  const int64_t tiles = (a.shape.outputs + 15) / 16 * (groups < a.n ? groups : a.n);
  // Few outputs are spread over all processors; otherwise blocks share the rows of x.
  const bool spread = tiles < 4 * processors;
  if (rows <= 4) return spread ? run_bf16<1, 1, 12>(stream, a) : run_bf16<4, 1, 6>(stream, a);
  if (rows <= 12) return spread ? run_bf16<2, 2, 8>(stream, a) : run_bf16<4, 2, 6>(stream, a);
  if (rows <= 32) return spread ? run_bf16<2, 4, 8>(stream, a) : run_bf16<4, 4, 6>(stream, a);
  return spread ? run_bf16<2, 8, 6>(stream, a) : run_bf16<4, 8, 6>(stream, a);
}

void gemm_f32(Stream stream, const GemmArguments& a) {
  if (a.n == 0) return;
  const int64_t groups = a.table != nullptr ? a.groups : 1;
  const bool many = a.n >= kF32Rows * groups;
  const int64_t outputs = many ? 8 : 2;
  const int64_t units = (a.shape.outputs + outputs - 1) / outputs;
  const auto blocks = static_cast<unsigned>((units + kF32Warps - 1) / kF32Warps);
  const auto full_groups = static_cast<unsigned>(groups < a.n ? groups : a.n);
  const int64_t most = many ? (a.n + kF32Rows - 1) / kF32Rows : a.n;
  const auto pieces = static_cast<unsigned>(a.table != nullptr ? 1 : (most < 65535 ? most : 65535));
  launch(stream, dim3(blocks, full_groups, pieces), 32 * kF32Warps, 0,
         many ? f32_kernel<kF32Rows, 8> : f32_kernel<1, 2>, a);
}

}  // namespace keye::ops::cuda
