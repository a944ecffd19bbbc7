#include "ops/cuda/flash.h"
#include "ops/cuda/flash_wgmma.h"

namespace keye::ops::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffU;
constexpr float kLog2E = 1.4426950408889634F;
constexpr int kThreads = 256;
constexpr int kWarps = 8;
constexpr int kStages = 2;

__device__ __forceinline__ float element_at(const VisionAttentionArguments& a, int64_t at) {
  return a.element == Element::f32 ? static_cast<const float*>(a.qkv)[at]
                                   : to_float(static_cast<const bf16*>(a.qkv)[at]);
}

/// Channel i of a head, rotated by pairs (i, i + d/2).
__device__ __forceinline__ float rotated(const VisionAttentionArguments& a, int64_t patch, int64_t head_at, int i) {
  const int half = a.dim / 2;
  const int pair = i % half;
  const float x = element_at(a, head_at + i);
  const float other = element_at(a, head_at + (i < half ? i + half : pair));
  const float c = a.cos[patch * half + pair];
  const float s = a.sin[patch * half + pair];
  return i < half ? __fsub_rn(__fmul_rn(x, c), __fmul_rn(other, s)) : __fadd_rn(__fmul_rn(x, c), __fmul_rn(other, s));
}

/// q, k and v as the tensor cores want them: [3][heads][p][width] bf16, rotated, padded with zeros. A block arranges
/// one patch, whose heads lie one after another; a thread has two channels at a time.
__global__ void __launch_bounds__(kThreads) arrange_kernel(VisionAttentionArguments a, int width, uint32_t* out) {
  begin_kernel();
  const int words = width / 2;
  const int64_t patch = blockIdx.x;
  const int64_t first = patch * 3 * a.heads * a.dim;
  for (int item = static_cast<int>(threadIdx.x); item < 3 * a.heads * words; item += kThreads) {
    const int i = item % words * 2;
    const int row = item / words;  // of [3][heads]
    float two[2] = {0.0F, 0.0F};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int64_t from = first + static_cast<int64_t>(row) * a.dim;
      if (i + j < a.dim) two[j] = row >= 2 * a.heads ? element_at(a, from + i + j) : rotated(a, patch, from, i + j);
    }
    out[(static_cast<int64_t>(row) * a.p + patch) * words + i / 2] = two_bf16(two[0], two[1]);
  }
}

/// The same of bf16 heads whose halves have even widths: two channels of a head and their partners are a word each.
template <int kWords>
__global__ void __launch_bounds__(kThreads) arrange_words_kernel(VisionAttentionArguments a, uint32_t* out) {
  begin_kernel();
  const int64_t patch = blockIdx.x;
  const int head_words = a.dim / 2;
  const int half = head_words / 2;
  const uint32_t* words = static_cast<const uint32_t*>(a.qkv) + patch * 3 * a.heads * head_words;
  const auto* cosines = reinterpret_cast<const float2*>(a.cos) + patch * half;
  const auto* sines = reinterpret_cast<const float2*>(a.sin) + patch * half;
  for (int item = static_cast<int>(threadIdx.x); item < 3 * a.heads * kWords; item += kThreads) {
    const int i = item % kWords;
    const int row = item / kWords;  // of [3][heads]
    uint32_t word = 0;
    if (i < head_words) {
      word = words[row * head_words + i];
      if (row < 2 * a.heads) {
        const int pair = i < half ? i : i - half;
        const uint32_t other = words[row * head_words + (i < half ? i + half : pair)];
        const float2 c = cosines[pair];
        const float2 s = sines[pair];
        const float low = __fmul_rn(low_float(other), s.x);
        const float high = __fmul_rn(high_float(other), s.y);
        const float own_low = __fmul_rn(low_float(word), c.x);
        const float own_high = __fmul_rn(high_float(word), c.y);
        word = i < half ? two_bf16(__fsub_rn(own_low, low), __fsub_rn(own_high, high))
                        : two_bf16(__fadd_rn(own_low, low), __fadd_rn(own_high, high));
      }
    }
    out[(static_cast<int64_t>(row) * a.p + patch) * kWords + i] = word;
  }
}

template <int kKey>
struct SegmentSource {
  const bf16* k;
  const bf16* v;  // of the segment's first patch
  int keys;

  __device__ __forceinline__ int limit(int) const { return keys; }
  __device__ __forceinline__ void load(int block, unsigned char* to_k, unsigned char* to_v) const {
    constexpr int kChunks = kKey / 8;
    const int64_t first = static_cast<int64_t>(block) * kBlockKeys;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kBlockKeys * kChunks; i += 32 * kWarps) {
      const int row = i / kChunks;
      const bool valid = first + row < keys;
      const int64_t from = valid ? first * kKey + i * 8 : 0;
      const int at = row * kTileRow<kKey> + i % kChunks * 16;
      copy_async(to_k + at, k + from, valid);
      copy_async(to_v + at, v + from, valid);
    }
  }
};

template <int kKey, int kValue>
__global__ void __launch_bounds__(32 * kWarps, 1) segment_kernel(VisionAttentionArguments a) {
  begin_kernel();
  const int first = a.segments[blockIdx.z];
  const int patches = a.segments[blockIdx.z + 1] - first;
  const int begin = static_cast<int>(blockIdx.x) * 16 * kWarps;
  if (begin >= patches) return;
  const int64_t head = blockIdx.y;
  const auto* arranged = static_cast<const bf16*>(a.workspace);
  const auto part = [&](int64_t which) { return arranged + ((which * a.heads + head) * a.p + first) * kKey; };
  const SegmentSource<kKey> source{part(1), part(2), patches};
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  uint32_t query[kKey / 16][4];
  load_query<kKey>(row < patches ? part(0) + static_cast<int64_t>(row) * kKey : nullptr,
                   row + 8 < patches ? part(0) + static_cast<int64_t>(row + 8) * kKey : nullptr, query);
  Rows<kValue> rows;
  attend_tile<kKey, kValue, kStages, false>(source, query, 0, (patches + kBlockKeys - 1) / kBlockKeys, a.scale * kLog2E,
                                            0, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= patches) continue;
    const int64_t at = (static_cast<int64_t>(first + row + 8 * half) * a.heads + head) * a.dim;
#pragma unroll
    for (int tile = 0; tile < kValue / 8; ++tile) {
      const int column = 8 * tile + lane % 4 * 2;
      if (column >= a.dim) continue;  // the width is even
      const float x = __fdiv_rn(rows.mix[tile][2 * half], rows.state[half].sum);
      const float y = __fdiv_rn(rows.mix[tile][2 * half + 1], rows.state[half].sum);
      if (a.out_element == Element::bf16) {
        *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.out) + at + column) = two_bf16(x, y);
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(a.out) + at + column) = make_float2(x, y);
      }
    }
  }
}

// -- f32 ---------------------------------------------------------------------

constexpr int kPlainWarps = 4;
constexpr int kDimMax = 256;

/// A warp per (patch, head), plain multiply-adds over the rotated q and k in the workspace, [2][heads][p][d] f32.
__global__ void __launch_bounds__(kThreads) rotate_kernel(VisionAttentionArguments a, float* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= static_cast<int64_t>(a.p) * 2 * a.heads * a.dim) return;
  const int i = static_cast<int>(item % a.dim);
  const int64_t head = item / a.dim % a.heads;
  const int64_t which = item / a.dim / a.heads % 2;
  const int64_t patch = item / a.dim / a.heads / 2;
  out[((which * a.heads + head) * a.p + patch) * a.dim + i] =
      rotated(a, patch, ((patch * 3 + which) * a.heads + head) * a.dim, i);
}

__global__ void __launch_bounds__(32 * kPlainWarps) plain_kernel(VisionAttentionArguments a) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first = a.segments[blockIdx.z];
  const int patches = a.segments[blockIdx.z + 1] - first;
  const int row = static_cast<int>(blockIdx.x) * kPlainWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= patches) return;
  const int64_t head = blockIdx.y;
  const auto* turned = static_cast<const float*>(a.workspace);
  const float* query = turned + (head * a.p + first + row) * a.dim;
  const float* keys = turned + ((a.heads + head) * a.p + first) * a.dim;
  const float c = a.scale * kLog2E;
  RowState state;
  float mix[kDimMax / 32] = {};
  for (int begin = 0; begin < patches; begin += 32) {
    const int key = begin + lane;
    float score = -INFINITY;
    if (key < patches) {
      score = 0.0F;
      for (int i = 0; i < a.dim; ++i) score = fmaf(query[i], keys[static_cast<int64_t>(key) * a.dim + i], score);
    }
    float highest = score;
    for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(kAll, highest, step));
    const float max = fmaxf(state.max, highest);
    const float keep = decay(state.max, max, c);
    state.max = max;
    const float weight = exp2f((score - max) * c);
    float sum = weight;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    state.sum = fmaf(state.sum, keep, sum);
#pragma unroll
    for (float& x : mix) x *= keep;
    for (int j = 0; j < min(32, patches - begin); ++j) {
      const float of_key = __shfl_sync(kAll, weight, j);
      const int64_t from = (static_cast<int64_t>(first + begin + j) * 3 + 2) * a.heads * a.dim + head * a.dim;
#pragma unroll
      for (int i = 0; i < kDimMax / 32; ++i) {
        if (lane + 32 * i < a.dim) mix[i] = fmaf(of_key, element_at(a, from + lane + 32 * i), mix[i]);
      }
    }
  }
  const int64_t at = (static_cast<int64_t>(first + row) * a.heads + head) * a.dim;
#pragma unroll
  for (int i = 0; i < kDimMax / 32; ++i) {
    if (lane + 32 * i >= a.dim) continue;
    const float value = __fdiv_rn(mix[i], state.sum);
    if (a.out_element == Element::f32) {
      static_cast<float*>(a.out)[at + lane + 32 * i] = value;
    } else {
      static_cast<bf16*>(a.out)[at + lane + 32 * i] = to_bf16(value);
    }
  }
}

/// The tensor cores' arithmetic is that of a bf16 result; 0: plain.
int width_of(const VisionAttentionArguments& a) {
  if (a.out_element != Element::bf16 || a.dim > 128) return 0;
  return a.dim <= 32 ? 32 : (a.dim <= 64 ? 64 : (a.dim <= 80 ? 80 : (a.dim <= 96 ? 96 : 128)));
}

unsigned blocks_for(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

}  // namespace

int64_t vision_attention_workspace(const VisionAttentionArguments& a) {
  const int width = width_of(a);
  const int64_t heads = static_cast<int64_t>(a.p) * a.heads;
  return width == 0 ? heads * 2 * a.dim * 4 : heads * 3 * width * 2;
}

void vision_attention(Stream stream, const VisionAttentionArguments& a) {
  if (a.p == 0) return;
  const int width = width_of(a);
  const auto heads = static_cast<unsigned>(a.heads);
  const auto segments = static_cast<unsigned>(a.segment_count);
  if (width == 0) {
    launch(stream, blocks_for(static_cast<int64_t>(a.p) * 2 * a.heads * a.dim), kThreads, 0, rotate_kernel, a,
           static_cast<float*>(a.workspace));
    const auto rows = static_cast<unsigned>((a.segment_max + kPlainWarps - 1) / kPlainWarps);
    return launch(stream, dim3(rows, heads, segments), 32 * kPlainWarps, 0, plain_kernel, a);
  }
  auto* arranged = static_cast<uint32_t*>(a.workspace);
  if (a.element == Element::bf16 && a.dim % 4 == 0 && width == 80) {
    launch(stream, static_cast<unsigned>(a.p), kThreads, 0, arrange_words_kernel<40>, a, arranged);
  } else {
    launch(stream, static_cast<unsigned>(a.p), kThreads, 0, arrange_kernel, a, width, arranged);
  }
  if (width == 80 && a.hopper) return check_cuda(flash_segments(stream, a), "flash_segments");
  const dim3 grid(static_cast<unsigned>((a.segment_max + 16 * kWarps - 1) / (16 * kWarps)), heads, segments);
  const auto run = [&](auto kernel, size_t stage_bytes) {
    launch(stream, grid, 32 * kWarps, kStages * stage_bytes, kernel, a);
  };
  if (width == 32) return run(segment_kernel<32, 32>, kStageBytes<32>);
  if (width == 64) return run(segment_kernel<64, 64>, kStageBytes<64>);
  if (a.dim <= 72 && width == 80) return run(segment_kernel<80, 72>, kStageBytes<80>);
  if (width == 80) return run(segment_kernel<80, 80>, kStageBytes<80>);
  if (width == 96) return run(segment_kernel<96, 96>, kStageBytes<96>);
  run(segment_kernel<128, 128>, kStageBytes<128>);
}

}  // namespace keye::ops::cuda
