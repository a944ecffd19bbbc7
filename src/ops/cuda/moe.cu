#include "ops/cuda/number.h"
#include "ops/cuda/row_kernels.h"
#include "ops/cuda/simt.h"

namespace keye::ops::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffU;

// -- routing -----------------------------------------------------------------

constexpr int kRouteWarps = 4;

/// One warp per token; lane l holds the experts l + 32 i.
template <int kPerLane>
__global__ void __launch_bounds__(32 * kRouteWarps)
    route_kernel(const float* logits, int64_t n, int experts, int k, bool normalise, int32_t* chosen, float* weights) {
  begin_kernel();
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kRouteWarps + threadIdx.x / 32;
  if (token >= n) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  logits += token * experts;
  float p[kPerLane];
  float highest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = lane + 32 * i < experts ? logits[lane + 32 * i] : -INFINITY;
    highest = fmaxf(highest, p[i]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(kAll, highest, step));
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = lane + 32 * i < experts ? expf(p[i] - highest) : 0.0F;
    sum += p[i];
  }
  // A tree instead of the order of the experts: the sum scales all weights alike.
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) p[i] = lane + 32 * i < experts ? __fdiv_rn(p[i], sum) : -1.0F;

  float kept = 0.0F;  // lane j: the weight of rank j and of rank j + 32
  float kept_more = 0.0F;
  int32_t place = 0;
  int32_t place_more = 0;
  float of_chosen = 0.0F;
  for (int j = 0; j < k; ++j) {
    float best = -2.0F;
    int32_t at = 0x7fffffff;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (p[i] > best) {
        best = p[i];
        at = lane + 32 * i;
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAll, best, step);
      const int32_t other_at = __shfl_xor_sync(kAll, at, step);
      if (other > best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane + 32 * i == at) p[i] = -2.0F;
    }
    of_chosen += best;
    if (j % 32 == lane) {
      if (j < 32) {
        kept = best;
        place = at;
      } else {
        kept_more = best;
        place_more = at;
      }
    }
  }
  for (int j = lane; j < k; j += 32) {
    const float weight = j < 32 ? kept : kept_more;
    chosen[token * k + j] = j < 32 ? place : place_more;
    weights[token * k + j] = normalise ? __fdiv_rn(weight, of_chosen) : weight;
  }
}

// -- grouping ----------------------------------------------------------------

/// Pairs are sorted in chunks of one block, a thread for each.
constexpr int kChunk = 1024;
constexpr int kChunkWarps = kChunk / 32;

int64_t chunks_of(int64_t pairs) { return (pairs + kChunk - 1) / kChunk; }

/// Counts the block's pairs by expert: before[w][e] in shared memory is how many of warp w's predecessors in the block
/// chose e, and the result how many before this thread's pair in the block did. All threads call it.
__device__ __forceinline__ int rank_in_block(int expert, int experts, int32_t* before) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = static_cast<int>(threadIdx.x); i < kChunkWarps * experts; i += kChunk) before[i] = 0;
  __syncthreads();
  int rank = 0;
  int same = 0;
  for (int other = 0; other < 32; ++other) {
    const bool equal = __shfl_sync(kAll, expert, other) == expert;
    rank += equal && other < lane ? 1 : 0;
    same += equal ? 1 : 0;
  }
  if (expert >= 0 && rank == 0) before[warp * experts + expert] = same;
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kChunk) {
    int sum = 0;
    for (int w = 0; w < kChunkWarps; ++w) {
      const int own = before[w * experts + e];
      before[w * experts + e] = sum;
      sum += own;
    }
  }
  __syncthreads();
  return expert >= 0 ? before[warp * experts + expert] + rank : 0;
}

__device__ __forceinline__ int pair_expert(const int32_t* chosen, int64_t pair, int64_t pairs) {
  return pair < pairs ? chosen[pair] : -1;
}

/// counts[chunk][e]
__global__ void __launch_bounds__(kChunk)
    count_kernel(const int32_t* chosen, int64_t pairs, int experts, int32_t* counts) {
  begin_kernel();
  auto* before = dynamic_shared<int32_t>();
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  const int expert = pair_expert(chosen, pair, pairs);
  counts += static_cast<int64_t>(blockIdx.x) * experts;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kChunk) counts[e] = 0;
  const int rank = rank_in_block(expert, experts, before);
  __shared__ int32_t totals[kChunk];
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kChunk) totals[e] = 0;
  __syncthreads();
  if (expert >= 0) atomicMax(&totals[expert], rank + 1);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kChunk) counts[e] = totals[e];
}

/// Exclusive sum over one value per thread; the block has kChunk threads.
__device__ __forceinline__ int block_sum_before(int value) {
  __shared__ int32_t of_warp[kChunkWarps];
  const int lane = static_cast<int>(threadIdx.x % 32);
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  int before = 0;
  for (int w = 0; w < static_cast<int>(threadIdx.x / 32); ++w) before += of_warp[w];
  return before + sum - value;
}

/// counts[chunk][e] becomes the place of the chunk's first pair of e. One block; at most kChunk experts.
__global__ void __launch_bounds__(kChunk) scan_kernel(int32_t* counts, int64_t chunks, int experts, int32_t* offsets) {
  begin_kernel();
  const int e = static_cast<int>(threadIdx.x);
  int total = 0;
  if (e < experts) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += counts[chunk * experts + e];
  }
  int place = block_sum_before(total);
  if (e >= experts) return;
  offsets[e] = place;
  if (e == experts - 1) offsets[experts] = place + total;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int own = counts[chunk * experts + e];
    counts[chunk * experts + e] = place;
    place += own;
  }
}

__global__ void __launch_bounds__(kChunk) scatter_kernel(const int32_t* chosen, int64_t pairs, int experts, int k,
                                                         const int32_t* first, int32_t* rows, int32_t* places) {
  begin_kernel();
  auto* before = dynamic_shared<int32_t>();
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  const int expert = pair_expert(chosen, pair, pairs);
  const int rank = rank_in_block(expert, experts, before);
  if (expert < 0) return;
  const int place = first[static_cast<int64_t>(blockIdx.x) * experts + expert] + rank;
  rows[place] = static_cast<int32_t>(pair / k);
  places[pair] = place;
}

/// All of it in one block, for the few tokens of a decoding step.
__global__ void __launch_bounds__(kChunk) group_kernel(const int32_t* chosen, int pairs, int experts, int k,
                                                       int32_t* rows, int32_t* offsets, int32_t* places) {
  begin_kernel();
  auto* before = dynamic_shared<int32_t>();
  __shared__ int32_t first[kChunk];
  const int pair = static_cast<int>(threadIdx.x);
  const int expert = pair_expert(chosen, pair, pairs);
  first[threadIdx.x] = 0;
  const int rank = rank_in_block(expert, experts, before);
  if (expert >= 0) atomicMax(&first[expert], rank + 1);
  __syncthreads();
  const int total = first[threadIdx.x];
  const int place = block_sum_before(total);
  first[threadIdx.x] = place;
  if (pair < experts) offsets[pair] = place;
  if (pair == experts - 1) offsets[experts] = place + total;
  __syncthreads();
  if (expert < 0) return;
  rows[first[expert] + rank] = pair / k;
  places[pair] = first[expert] + rank;
}

// -- combining ---------------------------------------------------------------

constexpr int kThreads = 256;

template <class Y, int kWide>
__global__ void combine_kernel(const Y* y, const int32_t* places, const float* weights, int64_t n, int k, int64_t c,
                               float* out) {
  begin_kernel();
  const int64_t pieces = c / kWide;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= n * pieces) return;
  const int64_t t = item / pieces;
  const int64_t at = item % pieces * kWide;
  float sum[kWide];
  float* to = out + t * c + at;
  if constexpr (kWide == 4) {
    const float4 four = *reinterpret_cast<const float4*>(to);
    sum[0] = four.x, sum[1] = four.y, sum[2] = four.z, sum[3] = four.w;
  } else {
    sum[0] = *to;
  }
  for (int j = 0; j < k; ++j) {
    const float weight = weights[t * k + j];
    const Y* from = y + static_cast<int64_t>(places[t * k + j]) * c + at;
    if constexpr (kWide == 4) {
      const float4 four = load_four(from);
      sum[0] = __fadd_rn(sum[0], __fmul_rn(weight, four.x));
      sum[1] = __fadd_rn(sum[1], __fmul_rn(weight, four.y));
      sum[2] = __fadd_rn(sum[2], __fmul_rn(weight, four.z));
      sum[3] = __fadd_rn(sum[3], __fmul_rn(weight, four.w));
    } else {
      sum[0] = __fadd_rn(sum[0], __fmul_rn(weight, to_float(*from)));
    }
  }
  if constexpr (kWide == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(sum[0], sum[1], sum[2], sum[3]);
  } else {
    *to = sum[0];
  }
}

}  // namespace

void moe_route(Stream stream, const float* logits, int64_t n, int experts, int k, bool normalise, int32_t* chosen,
               float* weights) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>((n + kRouteWarps - 1) / kRouteWarps);
  const auto kernel = experts <= 32    ? route_kernel<1>
                      : experts <= 128 ? route_kernel<4>
                      : experts <= 256 ? route_kernel<8>
                                       : route_kernel<32>;
  launch(stream, blocks, 32 * kRouteWarps, 0, kernel, logits, n, experts, k, normalise, chosen, weights);
}

int64_t moe_group_workspace(int64_t n, int experts, int k) { return chunks_of(n * k) * experts; }

void moe_group(Stream stream, const int32_t* chosen, int64_t n, int experts, int k, int32_t* rows, int32_t* offsets,
               int32_t* places, int32_t* workspace) {
  const int64_t pairs = n * k;
  const size_t shared = static_cast<size_t>(kChunkWarps) * static_cast<size_t>(experts) * sizeof(int32_t);
  if (pairs <= kChunk) {
    return launch(stream, 1, kChunk, shared, group_kernel, chosen, static_cast<int>(pairs), experts, k, rows, offsets,
                  places);
  }
  const int64_t chunks = chunks_of(pairs);
  const auto blocks = static_cast<unsigned>(chunks);
  launch(stream, blocks, kChunk, shared, count_kernel, chosen, pairs, experts, workspace);
  launch(stream, 1, kChunk, 0, scan_kernel, workspace, chunks, experts, offsets);
  launch(stream, blocks, kChunk, shared, scatter_kernel, chosen, pairs, experts, k, workspace, rows, places);
}

void moe_combine(Stream stream, const void* y, bool y_f32, const int32_t* places, const float* weights, int64_t n,
                 int k, int64_t c, float* out) {
  if (n == 0) return;
  const int64_t pieces = c % 4 == 0 ? c / 4 : c;
  const auto blocks = static_cast<unsigned>((n * pieces + kThreads - 1) / kThreads);
  if (y_f32) {
    launch(stream, blocks, kThreads, 0, c % 4 == 0 ? combine_kernel<float, 4> : combine_kernel<float, 1>,
           static_cast<const float*>(y), places, weights, n, k, c, out);
  } else {
    launch(stream, blocks, kThreads, 0, c % 4 == 0 ? combine_kernel<bf16, 4> : combine_kernel<bf16, 1>,
           static_cast<const bf16*>(y), places, weights, n, k, c, out);
  }
}

}  // namespace keye::ops::cuda
