// Attention of one tile of queries over a run of keys, on the tensor cores. Device code that the decoder's and the
// encoder's kernels share.
//
// Keys are visited in order, 64 at a time, with running maximum and sum. Over long contexts a row's result is made of
// parts of kKeysPerPart keys, each begun afresh, merged in order by merge_parts(): in registers here, or by another
// kernel if the parts were given to different blocks. Either way a row has the same bits, whatever its neighbours are:
// keys that it must not see leave its numbers as they are.
#pragma once

#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/mma.h"

namespace keye::ops::cuda {

inline constexpr int kBlockKeys = 64;
inline constexpr int kBlocksPerPart = kKeysPerPart / kBlockKeys;

/// Bytes of a row of `width` bf16 in shared memory: an odd number of 16 bytes, so that ldmatrix finds eight rows in
/// different banks.
template <int kWidth>
inline constexpr int kTileRow = kWidth * 2 + (kWidth / 8 % 2 == 0 ? 16 : 32);
template <int kKey>
inline constexpr int kStageBytes = 2 * kBlockKeys* kTileRow<kKey>;

/// 2^x, by the unit that has it; numbers below the normal ones are 0.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef KEYE_CUDA_EMULATOR
  return std::exp2(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

/// 2^((a - b) c), and 1 if they are equal, infinite or not.
__device__ __forceinline__ float decay(float a, float b, float c) {
  return a == b ? 1.0F : power_of_two(__fmul_rn(a - b, c));
}

/// A row's maximum (of scores before scaling) and sum.
struct RowState {
  float max = -INFINITY;
  float sum = 0.0F;
};

/// What the total and the next part are to be multiplied by, so that they can be added; `total` becomes their sum's.
struct MergeFactors {
  float total, part;
};
__device__ __forceinline__ MergeFactors merge_parts(RowState& total, const RowState& part, float c) {
  const float max = fmaxf(total.max, part.max);
  const MergeFactors factors{decay(total.max, max, c), decay(part.max, max, c)};
  total.max = max;
  total.sum = fmaf(total.sum, factors.total, __fmul_rn(part.sum, factors.part));
  return factors;
}
__device__ __forceinline__ float merged(float total, float part, const MergeFactors& factors) {
  return fmaf(total, factors.total, __fmul_rn(part, factors.part));
}

/// A warp's 16 rows: lane l holds rows l / 4 and l / 4 + 8, and of each 8 columns the two at 2 (l % 4).
template <int kValue>
struct Rows {
  float mix[kValue / 8][4];
  RowState state[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kValue / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mix[tile][i] = 0.0F;
    }
    state[0] = {};
    state[1] = {};
  }
  __device__ __forceinline__ void scale(const float (&keep)[2]) {
#pragma unroll
    for (int tile = 0; tile < kValue / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mix[tile][i] = __fmul_rn(mix[tile][i], keep[i / 2]);
    }
  }
  /// The sums' parts lie in the four lanes of a row.
  __device__ __forceinline__ void gather_sums() {
#pragma unroll
    for (RowState& row : state) {
      row.sum += __shfl_xor_sync(0xffffffffU, row.sum, 1);
      row.sum += __shfl_xor_sync(0xffffffffU, row.sum, 2);
    }
  }
  __device__ __forceinline__ void merge(const Rows& part, float c) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const MergeFactors factors = merge_parts(state[half], part.state[half], c);
#pragma unroll
      for (int tile = 0; tile < kValue / 8; ++tile) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) mix[tile][i] = merged(mix[tile][i], part.mix[tile][i], factors);
      }
    }
  }
};

/// From a warp's scores of 64 keys to their weights, in place, and the rows' new states. What was mixed before is to be
/// multiplied by `keep`. `limits`: how many of the 64 keys each of the lane's two rows sees.
__device__ __forceinline__ void weigh(float (&scores)[kBlockKeys / 8][4], const int (&limits)[2], float c,
                                      RowState (&states)[2], float (&keep)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (limits[0] < kBlockKeys || limits[1] < kBlockKeys) {
#pragma unroll
    for (int tile = 0; tile < kBlockKeys / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (8 * tile + lane % 4 * 2 + i % 2 >= limits[i / 2]) scores[tile][i] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < kBlockKeys / 8; ++tile) {
      highest = fmaxf(highest, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
    }
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffU, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffU, highest, 2));
    RowState& state = states[half];
    const float max = fmaxf(state.max, highest);
    keep[half] = decay(state.max, max, c);
    state.max = max;
    const float shift = max == -INFINITY ? 0.0F : -max * c;
    float sum = 0.0F;
#pragma unroll
    for (int tile = 0; tile < kBlockKeys / 8; ++tile) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[tile][i] = power_of_two(fmaf(scores[tile][i], c, shift));
        sum = __fadd_rn(sum, scores[tile][i]);
      }
    }
    state.sum = fmaf(state.sum, keep[half], sum);
  }
}

/// Weights as the tensor cores take them.
__device__ __forceinline__ void pack_weights(const float (&scores)[kBlockKeys / 8][4],
                                             uint32_t (&weights)[kBlockKeys / 16][4]) {
#pragma unroll
  for (int k = 0; k < kBlockKeys / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[k][i] = two_bf16(scores[2 * k + i / 2][i % 2 * 2], scores[2 * k + i / 2][i % 2 * 2 + 1]);
    }
  }
}

/// One block of 64 keys for a warp's 16 rows.
///   query  fragments of [16, kKey]     keys [64][kKey], values [64][kValue] in shared memory, rows kTileRow<kKey>
///   apart
template <int kKey, int kValue>
__device__ __forceinline__ void attend_block(const uint32_t (&query)[kKey / 16][4], const unsigned char* keys,
                                             const unsigned char* values, const int (&limits)[2], float c,
                                             Rows<kValue>& rows) {
  constexpr int kRow = kTileRow<kKey>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  float scores[kBlockKeys / 8][4] = {};
#pragma unroll
  for (int k = 0; k < kKey / 16; ++k) {
#pragma unroll
    for (int pair = 0; pair < kBlockKeys / 16; ++pair) {
      uint32_t both[4];
      const int row = 16 * pair + lane % 8 + lane / 16 * 8;
      load_matrices(both, keys + row * kRow + k * 32 + lane / 8 % 2 * 16);
      mma_bf16(scores[2 * pair], query[k], {both[0], both[1]});
      mma_bf16(scores[2 * pair + 1], query[k], {both[2], both[3]});
    }
  }
  uint32_t weights[kBlockKeys / 16][4];
  float keep[2];
  weigh(scores, limits, c, rows.state, keep);
  pack_weights(scores, weights);
  rows.scale(keep);
#pragma unroll
  for (int k = 0; k < kBlockKeys / 16; ++k) {
#pragma unroll
    for (int pair = 0; pair < (kValue + 15) / 16; ++pair) {
      uint32_t both[4];
      load_matrices_transposed(both, values + (16 * k + lane % 16) * kRow + pair * 32 + lane / 16 * 16);
      mma_bf16(rows.mix[2 * pair], weights[k], {both[0], both[1]});
      if (2 * pair + 1 < kValue / 8) mma_bf16(rows.mix[2 * pair + 1], weights[k], {both[2], both[3]});
    }
  }
}

/// Keys [64 first, 64 end) of `source` for the block's tile of rows. Source:
///   load(block, keys, values)  begins to copy a block's rows into shared memory, all threads together
///   limit(half)                how many keys, counted from 0, the lane's row sees
/// `total` has the result before the division by its sum, of the warp's kValue columns of the values from `column` on.
/// If kParts, `first` is the first block of a part.
template <int kKey, int kValue, int kStages, bool kParts, class Source>
__device__ __forceinline__ void attend_tile(const Source& source, const uint32_t (&query)[kKey / 16][4], int first,
                                            int end, float c, int column, Rows<kValue>& total) {
  unsigned char* ring = dynamic_shared<unsigned char>();
  const auto stage = [&](int block) { return ring + (block - first) % kStages * kStageBytes<kKey>; };
  const auto load = [&](int block) {
    if (block < end) source.load(block, stage(block), stage(block) + kBlockKeys * kTileRow<kKey>);
    commit_copies();
  };
  const int seen[2] = {source.limit(0), source.limit(1)};
  const auto visit = [&](int block, Rows<kValue>& rows) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the block has landed for all, and all are done with the one before it
    load(block + kStages - 1);
    const int limits[2] = {seen[0] - block * kBlockKeys, seen[1] - block * kBlockKeys};
    attend_block<kKey, kValue>(query, stage(block), stage(block) + kBlockKeys * kTileRow<kKey> + column * 2, limits, c,
                               rows);
  };
  total.clear();
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) load(first + i);
  if constexpr (kParts) {
    for (int part = first; part < end; part += kBlocksPerPart) {
      Rows<kValue> rows;
      rows.clear();
      for (int block = part; block < min(end, part + kBlocksPerPart); ++block) visit(block, rows);
      rows.gather_sums();
      total.merge(rows, c);
    }
  } else {
    for (int block = first; block < end; ++block) visit(block, total);
    total.gather_sums();
  }
}

/// The fragments of two rows of queries, null ones being zeros.
template <int kKey>
__device__ __forceinline__ void load_query(const bf16* upper, const bf16* lower, uint32_t (&query)[kKey / 16][4]) {
  const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int k = 0; k < kKey / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bf16* row = i % 2 == 0 ? upper : lower;
      query[k][i] = row == nullptr ? 0U : *reinterpret_cast<const uint32_t*>(row + 16 * k + column + (i < 2 ? 0 : 8));
    }
  }
}

}  // namespace keye::ops::cuda
