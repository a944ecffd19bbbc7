#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/mma.h"

namespace keye::ops::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffU;
constexpr int kPage = 64;
constexpr int kDimMax = 256;

__device__ __forceinline__ int64_t page_bytes(const DevicePlane& keys) {
  return static_cast<int64_t>(kPage) * keys.dim * (keys.element == Element::f32 ? 4 : 2);
}
__device__ __forceinline__ const unsigned char* page_of(const DevicePlane& keys, int32_t page) {
  return static_cast<const unsigned char*>(keys.data) + page * page_bytes(keys);
}

// -- queries and keys --------------------------------------------------------

constexpr int kInputWarps = 8;

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

__device__ __forceinline__ float narrowed(float x, bool narrow) { return narrow ? to_float(to_bf16(x)) : x; }

/// round_row_to_f8() of quantize_row.h, by one warp.
__device__ __forceinline__ void round_to_f8(float* x, int dim) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float largest = 0.0F;
  for (int i = lane; i < dim; i += 32) largest = fmaxf(largest, fabsf(x[i]));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
  const float ratio = __fmul_rn(fmaxf(1e-4F, largest), 1.0F / 448.0F);
  int exponent = 0;
  const float fraction = frexpf(ratio, &exponent);
  if (fraction == 0.5F) --exponent;
  const float scale = ldexpf(1.0F, exponent);
  const float inverse = ldexpf(1.0F, -exponent);
  for (int i = lane; i < dim; i += 32) x[i] = to_float(to_f8(__fmul_rn(x[i], inverse))) * scale;
}

/// A warp per query head, and one for the key, of a token.
__global__ void __launch_bounds__(32 * kInputWarps) input_kernel(IndexerInputArguments a) {
  begin_kernel();
  __shared__ float buffers[kInputWarps][kDimMax];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kInputWarps + threadIdx.x / 32;
  if (item >= static_cast<int64_t>(a.n) * (a.heads + 1)) return;
  const int64_t t = item / (a.heads + 1);
  const int head = static_cast<int>(item % (a.heads + 1));
  const bool is_key = head == a.heads;
  const int d = a.dim;
  const bool narrow = a.element == Element::bf16;
  const int64_t row_floats = static_cast<int64_t>(a.heads) * d + a.heads;
  const float* in = is_key ? a.k_in + t * d : a.q_gate + t * row_floats + static_cast<int64_t>(head) * d;
  float* x = buffers[threadIdx.x / 32];

  float mean = 0.0F;
  if (is_key) {
    for (int i = lane; i < d; i += 32) mean += in[i];
    mean = warp_sum(mean) / static_cast<float>(d);
  }
  float squares = 0.0F;
  for (int i = lane; i < d; i += 32) squares = fmaf(in[i] - mean, in[i] - mean, squares);
  const float scale = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(d) + a.eps);
  for (int i = lane; i < d; i += 32) {
    float value = __fmul_rn(__fmul_rn(in[i] - mean, scale), is_key ? a.k_norm[i] : a.q_norm[i]);
    if (is_key) value = __fadd_rn(value, a.k_bias[i]);
    x[i] = narrowed(value, narrow);
  }
  __syncwarp();
  const int half = d / 2;
  for (int i = lane; i < half; i += 32) {
    const float c = narrowed(a.cos[t * half + i], narrow);
    const float s = narrowed(a.sin[t * half + i], narrow);
    const float first = x[i];
    const float second = x[i + half];
    const auto product = [&](float p, float q) { return narrowed(__fmul_rn(p, q), narrow); };
    x[i] = narrowed(__fsub_rn(product(first, c), product(second, s)), narrow);
    x[i + half] = narrowed(__fadd_rn(product(second, c), product(first, s)), narrow);
  }
  __syncwarp();
  for (int stride = 1; stride < d; stride *= 2) {
    for (int i = lane; i < half; i += 32) {
      const int at = i / stride * 2 * stride + i % stride;
      const float first = x[at];
      const float second = x[at + stride];
      x[at] = first + second;
      x[at + stride] = first - second;
    }
    __syncwarp();
  }
  const float root = __fdiv_rn(1.0F, __fsqrt_rn(static_cast<float>(d)));
  for (int i = lane; i < d; i += 32) x[i] = narrowed(__fmul_rn(x[i], root), narrow);
  __syncwarp();
  if (narrow) round_to_f8(x, d);
  __syncwarp();
  unsigned char* out = nullptr;
  int64_t at = 0;
  if (is_key) {
    const int32_t slot = a.slots[t];
    out = static_cast<unsigned char*>(a.keys.data) + slot / kPage * page_bytes(a.keys);
    at = static_cast<int64_t>(slot % kPage) * d;
  } else {
    out = static_cast<unsigned char*>(a.q);
    at = (t * a.heads + head) * d;
    if (lane == 0)
      a.gate[t * a.heads + head] = __fmul_rn(a.q_gate[t * row_floats + static_cast<int64_t>(a.heads) * d + head], root);
  }
  for (int i = lane; i < d; i += 32) {
    if (narrow) {
      reinterpret_cast<bf16*>(out)[at + i] = to_bf16(x[i]);
    } else {
      reinterpret_cast<float*>(out)[at + i] = x[i];
    }
  }
}

// -- scores ------------------------------------------------------------------

/// Rows [begin, end) of the step, whose scores are rows of `data`, `stride` floats apart.
struct Slice {
  int begin, end;
  float* data;
  int64_t stride;
  bool all;  // rows that keep every key are scored, too
};

constexpr int kScoreWarps = 4;
constexpr int kBlocksPerWarp = 4;  // pages of keys
constexpr int kHeadRows = 16;

/// How many keys the row sees if it is to be scored, else 0.
__device__ __forceinline__ int keys_to_score(const SparseSelectArguments& a, const Slice& slice,
                                             const DeviceSequence& sequence, int row) {
  const int step_row = sequence.first_row + row;
  if (row >= sequence.rows || step_row < slice.begin || step_row >= slice.end) return 0;
  const int keys = sequence.context + row + 1;
  return slice.all || keys > a.topk ? keys : 0;
}

/// Up to 16 heads and bf16, on the tensor cores: a warp scores 64 kBlocksPerWarp keys for kTokens tokens. The inputs of
/// a head are taken in an order that lets queries and keys be loaded 16 bytes at a time; heads are added as a tree.
template <int kDim, int kTokens>
__global__ void __launch_bounds__(32 * kScoreWarps) score_kernel(SparseSelectArguments a, Slice slice) {
  begin_kernel();
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.z];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_row = static_cast<int>(blockIdx.y) * kTokens;
  int keys[kTokens];
  int most = 0;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    keys[t] = keys_to_score(a, slice, sequence, first_row + t);
    most = max(most, keys[t]);
  }
  const int first_block =
      (static_cast<int>(blockIdx.x) * kScoreWarps + static_cast<int>(threadIdx.x) / 32) * kBlocksPerWarp;
  if (first_block * kPage >= most) return;
  constexpr int kPieces = kDim / 32;
  uint4 query[kTokens][kPieces][2];  // heads lane / 4 and lane / 4 + 8
  float gate[kTokens][2];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int head = lane / 4 + 8 * half;
      const bool valid = keys[t] > 0 && head < a.heads;
      const int64_t at = static_cast<int64_t>(sequence.first_row + first_row + t) * a.heads + head;
      gate[t][half] = valid ? a.gate[at] : 0.0F;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        query[t][piece][half] = make_uint4(0, 0, 0, 0);
        if (valid) {
          query[t][piece][half] =
              *reinterpret_cast<const uint4*>(static_cast<const bf16*>(a.q) + at * kDim + piece * 32 + lane % 4 * 8);
        }
      }
    }
  }
  const int32_t* pages = a.sequences.pages + sequence.first_page;
  for (int block = first_block; block < first_block + kBlocksPerWarp && block * kPage < most; ++block) {
    const auto* page = reinterpret_cast<const bf16*>(page_of(a.keys, pages[block]));
#pragma unroll
    for (int pair = 0; pair < kPage / 16; ++pair) {
      uint4 key[2][kPieces];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          key[tile][piece] = *reinterpret_cast<const uint4*>(page + (16 * pair + 8 * tile + lane / 4) * kDim +
                                                             piece * 32 + lane % 4 * 8);
        }
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float mine[4];  // of keys 8 tile + 2 (lane % 4) + i
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          float dots[4] = {};
#pragma unroll
          for (int piece = 0; piece < kPieces; ++piece) {
            const uint4 upper = query[t][piece][0];
            const uint4 lower = query[t][piece][1];
            mma_bf16(dots, {upper.x, lower.x, upper.y, lower.y}, {key[tile][piece].x, key[tile][piece].y});
            mma_bf16(dots, {upper.z, lower.z, upper.w, lower.w}, {key[tile][piece].z, key[tile][piece].w});
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            mine[2 * tile + i] =
                fmaf(gate[t][0], fmaxf(dots[i], 0.0F), __fmul_rn(gate[t][1], fmaxf(dots[i + 2], 0.0F)));
          }
        }
        // Over the heads, by halving: a lane keeps the keys of one tile, then one key.
        const bool second_tile = (lane & 16) != 0;
        float kept[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float other = __shfl_xor_sync(kAll, second_tile ? mine[i] : mine[2 + i], 16);
          kept[i] = __fadd_rn(second_tile ? mine[2 + i] : mine[i], other);
        }
        const bool second_key = (lane & 8) != 0;
        const float other = __shfl_xor_sync(kAll, second_key ? kept[0] : kept[1], 8);
        float score = __fadd_rn(second_key ? kept[1] : kept[0], other);
        score = __fadd_rn(score, __shfl_xor_sync(kAll, score, 4));
        const int index = block * kPage + 16 * pair + (second_tile ? 8 : 0) + lane % 4 * 2 + (second_key ? 1 : 0);
        if ((lane & 4) == 0 && index < keys[t]) {
          slice.data[(sequence.first_row + first_row + t - slice.begin) * slice.stride + index] = score;
        }
      }
    }
  }
}

constexpr int kPlainThreads = 128;

/// Any shape and type: a thread per (row, key).
__global__ void __launch_bounds__(kPlainThreads) plain_score_kernel(SparseSelectArguments a, Slice slice) {
  begin_kernel();
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.z];
  const int row = static_cast<int>(blockIdx.y);
  const int key = static_cast<int>(blockIdx.x) * kPlainThreads + static_cast<int>(threadIdx.x);
  if (key >= keys_to_score(a, slice, sequence, row)) return;
  const int32_t page = a.sequences.pages[sequence.first_page + key / kPage];
  const int64_t key_at = static_cast<int64_t>(key % kPage) * a.dim;
  const int64_t step_row = sequence.first_row + row;
  const bool exact = a.element == Element::f32;
  const unsigned char* from = page_of(a.keys, page);
  float score = 0.0F;
  for (int head = 0; head < a.heads; ++head) {
    const int64_t at = (step_row * a.heads + head) * a.dim;
    float dot = 0.0F;
    for (int i = 0; i < a.dim; ++i) {
      const float q = exact ? static_cast<const float*>(a.q)[at + i] : to_float(static_cast<const bf16*>(a.q)[at + i]);
      const float k = exact ? reinterpret_cast<const float*>(from)[key_at + i]
                            : to_float(reinterpret_cast<const bf16*>(from)[key_at + i]);
      dot = __fadd_rn(dot, __fmul_rn(q, k));
    }
    score = __fadd_rn(score, __fmul_rn(a.gate[step_row * a.heads + head], dot > 0.0F ? dot : 0.0F));
  }
  slice.data[(step_row - slice.begin) * slice.stride + key] = score;
}

__global__ void __launch_bounds__(kPlainThreads) clear_scores_kernel(float* scores, int64_t count) {
  begin_kernel();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  if (i < count) scores[i] = 0.0F;
}

// -- the best scores ---------------------------------------------------------

constexpr int kSelectThreads = 512;
constexpr int kDigits = 256;

/// Scores as numbers that grow with them; NaN below all.
__device__ __forceinline__ uint32_t rank_of(float score) {
  if (isnan(score)) return 0;
  const uint32_t bits = __float_as_uint(score + 0.0F);  // one zero
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// A block per row. The rank of the last one kept is found digit by digit; then the kept are listed in order.
__global__ void __launch_bounds__(kSelectThreads) select_kernel(SparseSelectArguments a, Slice slice) {
  begin_kernel();
  __shared__ int32_t counts[kDigits];
  __shared__ int32_t of_warp[2][kSelectThreads / 32];
  __shared__ uint32_t found_digit;
  __shared__ int32_t found_left;
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.y];
  const int row = static_cast<int>(blockIdx.x);
  const int step_row = sequence.first_row + row;
  if (row >= sequence.rows || step_row < slice.begin || step_row >= slice.end) return;
  const int keys = sequence.context + row + 1;
  int32_t* chosen = a.chosen + static_cast<int64_t>(step_row) * a.topk;
  const int thread = static_cast<int>(threadIdx.x);
  if (keys <= a.topk) {
    for (int i = thread; i < a.topk; i += kSelectThreads) chosen[i] = i < keys ? i : -1;
    return;
  }
  const float* scores = slice.data + static_cast<int64_t>(step_row - slice.begin) * slice.stride;
  uint32_t prefix = 0;
  int left = a.topk;  // of those whose rank begins with the prefix, so many are kept
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread; i < kDigits; i += kSelectThreads) counts[i] = 0;
    __syncthreads();
    for (int i = thread; i < keys; i += kSelectThreads) {
      const uint32_t rank = rank_of(scores[i]);
      if (shift == 24 || rank >> (shift + 8) == prefix) atomicAdd(&counts[(rank >> shift) & 255U], 1);
    }
    __syncthreads();
    if (thread == 0) {
      int over = 0;
      int digit = kDigits - 1;
      while (over + counts[digit] < left) over += counts[digit--];
      found_digit = static_cast<uint32_t>(digit);
      found_left = left - over;
    }
    __syncthreads();
    prefix = prefix << 8 | found_digit;
    left = found_left;
    __syncthreads();
  }
  // Kept: every rank above `prefix`, and the first `left` equal to it.
  int kept_before = 0;
  int equal_before = 0;
  for (int first = 0; first < keys; first += kSelectThreads) {
    const int i = first + thread;
    const uint32_t rank = i < keys ? rank_of(scores[i]) : 0;
    const bool above = i < keys && rank > prefix;
    const bool equal = i < keys && rank == prefix;
    const unsigned lower = (1U << (thread % 32)) - 1U;
    const unsigned above_here = __ballot_sync(kAll, above ? 1 : 0);
    const unsigned equal_here = __ballot_sync(kAll, equal ? 1 : 0);
    if (thread % 32 == 0) {
      of_warp[0][thread / 32] = __popc(above_here);
      of_warp[1][thread / 32] = __popc(equal_here);
    }
    __syncthreads();
    int above_total = 0;
    int equal_total = 0;
    int above_rank = __popc(above_here & lower);
    int equal_rank = equal_before + __popc(equal_here & lower);
    for (int w = 0; w < kSelectThreads / 32; ++w) {
      if (w < thread / 32) {
        above_rank += of_warp[0][w];
        equal_rank += of_warp[1][w];
      }
      above_total += of_warp[0][w];
      equal_total += of_warp[1][w];
    }
    // Equal ones kept so far: min(equal_rank, left).
    const int place = kept_before + above_rank + min(equal_rank, left) - min(equal_before, left);
    if (above || (equal && equal_rank < left)) chosen[place] = i;
    kept_before += above_total + min(equal_before + equal_total, left) - min(equal_before, left);
    equal_before += equal_total;
    __syncthreads();
  }
}

// -- the host's side ---------------------------------------------------------

constexpr int64_t kScoresMax = int64_t{64} << 20;

int64_t rows_of_slice(const SparseSelectArguments& a) {
  const int64_t fit = kScoresMax / a.sequences.length_max;
  return fit < 1 ? 1 : (fit < a.n ? fit : a.n);
}

template <int kDim>
void score(Stream stream, const SparseSelectArguments& a, const Slice& slice) {
  const auto count = static_cast<unsigned>(a.sequences.count);
  const int blocks = (a.sequences.length_max + kPage - 1) / kPage;
  const auto wide = static_cast<unsigned>((blocks + kScoreWarps * kBlocksPerWarp - 1) / (kScoreWarps * kBlocksPerWarp));
  const int rows = a.sequences.rows_max;
  if (rows >= 4) {
    launch(stream, dim3(wide, static_cast<unsigned>((rows + 3) / 4), count), 32 * kScoreWarps, 0, score_kernel<kDim, 4>,
           a, slice);
  } else {
    launch(stream, dim3(wide, static_cast<unsigned>(rows), count), 32 * kScoreWarps, 0, score_kernel<kDim, 1>, a,
           slice);
  }
}

}  // namespace

void indexer_input(Stream stream, const IndexerInputArguments& a) {
  if (a.n == 0) return;
  const int64_t items = static_cast<int64_t>(a.n) * (a.heads + 1);
  launch(stream, static_cast<unsigned>((items + kInputWarps - 1) / kInputWarps), 32 * kInputWarps, 0, input_kernel, a);
}

int64_t sparse_select_workspace(const SparseSelectArguments& a) {
  return a.scores != nullptr ? 0 : rows_of_slice(a) * a.sequences.length_max;
}

void sparse_select(Stream stream, const SparseSelectArguments& a) {
  if (a.n == 0 || a.sequences.count == 0) return;
  const auto count = static_cast<unsigned>(a.sequences.count);
  const auto rows = static_cast<unsigned>(a.sequences.rows_max);
  const bool wanted = a.scores != nullptr;
  if (wanted) {
    const int64_t floats = static_cast<int64_t>(a.n) * a.scores_stride;
    launch(stream, static_cast<unsigned>((floats + kPlainThreads - 1) / kPlainThreads), kPlainThreads, 0,
           clear_scores_kernel, a.scores, floats);
  }
  const int64_t each = wanted ? a.n : rows_of_slice(a);
  for (int64_t begin = 0; begin < a.n; begin += each) {
    const Slice slice{static_cast<int>(begin), static_cast<int>(begin + each < a.n ? begin + each : a.n),
                      wanted ? a.scores : a.workspace, wanted ? a.scores_stride : a.sequences.length_max, wanted};
    if (a.element == Element::bf16 && a.heads <= kHeadRows && a.dim == 64) {
      score<64>(stream, a, slice);
    } else if (a.element == Element::bf16 && a.heads <= kHeadRows && a.dim == 128) {
      score<128>(stream, a, slice);
    } else {
      const auto keys = static_cast<unsigned>((a.sequences.length_max + kPlainThreads - 1) / kPlainThreads);
      launch(stream, dim3(keys, rows, count), kPlainThreads, 0, plain_score_kernel, a, slice);
    }
    launch(stream, dim3(rows, count), kSelectThreads, 0, select_kernel, a, slice);
  }
}

}  // namespace keye::ops::cuda
