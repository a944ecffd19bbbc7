#include "ops/cuda/flash.h"
#include "ops/cuda/flash_wgmma.h"

namespace keye::ops::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffU;
constexpr float kLog2E = 1.4426950408889634F;
constexpr int kPage = 64;
constexpr int kDimMax = 256;

/// Bytes of one head of one page.
__host__ __device__ __forceinline__ int64_t head_bytes(const DevicePlane& plane) {
  const int64_t row =
      static_cast<int64_t>(plane.dim) * (plane.element == Element::f32 ? 4 : (plane.element == Element::bf16 ? 2 : 1));
  return kPage * (row + (plane.element == Element::i8 || plane.element == Element::f8 ? 4 : 0));
}
__device__ __forceinline__ unsigned char* head_of(const DevicePlane& plane, int32_t page, int head) {
  return static_cast<unsigned char*>(plane.data) +
         (static_cast<int64_t>(page) * plane.heads + head) * head_bytes(plane);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, step));
  return x;
}

// -- before attention --------------------------------------------------------

constexpr int kInputWarps = 8;

/// Writes a row of d floats into a plane, as quantize_row.h says where it has few bits.
__device__ __forceinline__ void write_row(const DevicePlane& plane, int32_t slot, int head, const float* x) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int d = plane.dim;
  unsigned char* block = head_of(plane, slot / kPage, head);
  const int64_t at = static_cast<int64_t>(slot % kPage) * d;
  if (plane.element == Element::f32) {
    for (int i = lane; i < d; i += 32) reinterpret_cast<float*>(block)[at + i] = x[i];
    return;
  }
  if (plane.element == Element::bf16) {
    for (int i = lane; i < d; i += 32) reinterpret_cast<bf16*>(block)[at + i] = to_bf16(x[i]);
    return;
  }
  float largest = 0.0F;
  for (int i = lane; i < d; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  const float most = plane.element == Element::i8 ? 127.0F : 448.0F;
  float scale = __fdiv_rn(warp_max(largest), most);
  const float inverse = scale > 7.52316385e-37F ? __fdiv_rn(1.0F, scale) : 0.0F;  // 2^-120
  if (inverse == 0.0F) scale = 0.0F;
  for (int i = lane; i < d; i += 32) {
    const float value = __fmul_rn(x[i], inverse);
    if (plane.element == Element::i8) {
      const float whole = rintf(fminf(most, fmaxf(-most, value)));
      reinterpret_cast<int8_t*>(block)[at + i] = static_cast<int8_t>(whole);
    } else {
      reinterpret_cast<f8*>(block)[at + i] = to_f8(value);
    }
  }
  if (lane == 0) reinterpret_cast<float*>(block + static_cast<int64_t>(kPage) * d)[slot % kPage] = scale;
}

/// Heads of 128: a lane holds four channels, whose partners in the rotation are the lane's 16 further on.
__device__ __forceinline__ void write_row128(const DevicePlane& plane, int32_t slot, int head, const float4& x) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  unsigned char* row = head_of(plane, slot / kPage, head) + static_cast<int64_t>(slot % kPage) * 256 + lane * 8;
  *reinterpret_cast<uint2*>(row) = make_uint2(two_bf16(x.x, x.y), two_bf16(x.z, x.w));
}

__global__ void __launch_bounds__(32 * kInputWarps) input128_kernel(AttentionInputArguments a) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int groups = a.k.heads;
  const int heads = a.heads + 2 * groups;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kInputWarps + threadIdx.x / 32;
  if (item >= static_cast<int64_t>(a.n) * heads) return;
  const int64_t t = item / heads;
  const int head = static_cast<int>(item % heads);
  float4 x = reinterpret_cast<const float4*>(a.qkv)[item * 32 + lane];
  if (head >= a.heads + groups) return write_row128(a.v, a.slots[t], head - a.heads - groups, x);
  const float4 weight = reinterpret_cast<const float4*>(head < a.heads ? a.q_norm : a.k_norm)[lane];
  const float4 c = reinterpret_cast<const float4*>(a.cos)[t * 16 + lane % 16];
  const float4 s = reinterpret_cast<const float4*>(a.sin)[t * 16 + lane % 16];
  const float squares = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, __fmul_rn(x.x, x.x))));
  const float scale = 1.0F / sqrtf(warp_sum(squares) / 128.0F + a.eps);
  const auto turn = [&](float value, float by, float cosine, float sine) {
    const float normed = __fmul_rn(__fmul_rn(value, scale), by);
    const float other = __fmul_rn(__shfl_xor_sync(kAll, normed, 16), sine);
    const float own = __fmul_rn(normed, cosine);
    return lane < 16 ? __fsub_rn(own, other) : __fadd_rn(own, other);
  };
  x = make_float4(turn(x.x, weight.x, c.x, s.x), turn(x.y, weight.y, c.y, s.y), turn(x.z, weight.z, c.z, s.z),
                  turn(x.w, weight.w, c.w, s.w));
  if (head >= a.heads) return write_row128(a.k, a.slots[t], head - a.heads, x);
  static_cast<uint2*>(a.q)[(t * a.heads + head) * 32 + lane] = make_uint2(two_bf16(x.x, x.y), two_bf16(x.z, x.w));
}

/// A warp per head of q, k and v. The planes' other slots are finite as they are: the cache was cleared when it was
/// allocated, and holds only what this kernel wrote since.
__global__ void __launch_bounds__(32 * kInputWarps) input_kernel(AttentionInputArguments a) {
  begin_kernel();
  __shared__ float buffers[kInputWarps][2][kDimMax];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int groups = a.k.heads;
  const int d = a.k.dim;
  const int heads = a.heads + 2 * groups;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kInputWarps + warp;
  if (item >= static_cast<int64_t>(a.n) * heads) return;
  const int64_t t = item / heads;
  const int head = static_cast<int>(item % heads);
  const float* x = a.qkv + item * d;
  float* normed = buffers[warp][0];
  float* rotated = buffers[warp][1];
  if (head >= a.heads + groups) {
    for (int i = lane; i < d; i += 32) rotated[i] = x[i];
    __syncwarp();
    return write_row(a.v, a.slots[t], head - a.heads - groups, rotated);
  }
  const float* weight = head < a.heads ? a.q_norm : a.k_norm;
  float squares = 0.0F;
  for (int i = lane; i < d; i += 32) squares = fmaf(x[i], x[i], squares);
  const float scale = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(d) + a.eps);
  for (int i = lane; i < d; i += 32) normed[i] = __fmul_rn(__fmul_rn(x[i], scale), weight[i]);
  __syncwarp();
  const int half = d / 2;
  for (int i = lane; i < half; i += 32) {
    const float c = a.cos[t * half + i];
    const float s = a.sin[t * half + i];
    rotated[i] = __fsub_rn(__fmul_rn(normed[i], c), __fmul_rn(normed[i + half], s));
    rotated[i + half] = __fadd_rn(__fmul_rn(normed[i + half], c), __fmul_rn(normed[i], s));
  }
  __syncwarp();
  if (head >= a.heads) return write_row(a.k, a.slots[t], head - a.heads, rotated);
  const int64_t at = (t * a.heads + head) * d;
  for (int i = lane; i < d; i += 32) {
    if (a.q_element == Element::f32) {
      static_cast<float*>(a.q)[at + i] = rotated[i];
    } else {
      static_cast<bf16*>(a.q)[at + i] = to_bf16(rotated[i]);
    }
  }
}

// -- on the tensor cores -----------------------------------------------------

/// Sequences of at most so many (token, head) pairs for each KV head are decoding.
constexpr int kFewPairs = 16;
enum class Take : uint8_t { all, few, many };

/// Where a tile's parts go if other blocks have the others: [n heads][parts] of kDim + 2 floats.
struct PartsOut {
  float* data;  // null: the tile has all keys
  int parts;
};

/// A tile's rows are (token, head) pairs of one KV head, token by token, so that the heads that share keys share their
/// loads. With a choice a tile has one token's pairs only, and key j is the j-th chosen.
template <int kDim, int kWarps, bool kChosen>
struct PagedSource {
  const PagedAttentionArguments& a;
  const int32_t* pages;
  const int32_t* chosen;  // of the tile's token
  int kv_head;
  int keys;  // that some row of the tile sees
  int seen[2];

  __device__ __forceinline__ int limit(int half) const { return seen[half]; }
  __device__ __forceinline__ void load(int block, unsigned char* k, unsigned char* v) const {
    constexpr int kChunks = kDim / 8;
    const int first = block * kBlockKeys;
    if constexpr (!kChosen) {
      const int32_t page = pages[block];
      const unsigned char* from_k = head_of(a.k, page, kv_head);
      const unsigned char* from_v = head_of(a.v, page, kv_head);
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x); i < kBlockKeys * kChunks; i += 32 * kWarps) {
        const int row = i / kChunks;
        const int at = row * kTileRow<kDim> + i % kChunks * 16;
        copy_async(k + at, from_k + i * 16, true);
        copy_async(v + at, from_v + i * 16, true);
      }
    } else {
      constexpr int kRowsAtOnce = 32 * kWarps / kChunks;
      static_assert(32 * kWarps % kChunks == 0);
#pragma unroll 4
      for (int i = 0; i < kBlockKeys / kRowsAtOnce; ++i) {
        const int row = i * kRowsAtOnce + static_cast<int>(threadIdx.x) / kChunks;
        const int chunk = static_cast<int>(threadIdx.x) % kChunks;
        const bool valid = first + row < keys;
        const int32_t token = valid ? chosen[first + row] : 0;
        const int32_t page = pages[token / kPage];
        const int64_t from = static_cast<int64_t>(token % kPage) * (kDim * 2) + chunk * 16;
        const int at = row * kTileRow<kDim> + chunk * 16;
        copy_async(k + at, head_of(a.k, page, kv_head) + from, valid);
        copy_async(v + at, head_of(a.v, page, kv_head) + from, valid);
      }
    }
  }
};

/// How many entries of a row of a choice are indices: those come first. All lanes of a warp call it.
__device__ __forceinline__ int count_chosen(const int32_t* chosen, int most) {
  int low = 0;
  int high = most;  // the first -1 lies in [low, high]
  while (low < high) {
    const int middle = (low + high) / 2;
    if (chosen[middle] < 0) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// kRowWarps times 16 rows, whose columns kColumnWarps warps share: each of those has all of the scores.
template <int kDim, int kRowWarps, int kColumnWarps, int kStages, bool kChosen, bool kSplit>
__global__ void __launch_bounds__(32 * kRowWarps * kColumnWarps, 1)
    paged_kernel(PagedAttentionArguments a, Take take, PartsOut parts) {
  begin_kernel();
  constexpr int kTile = 16 * kRowWarps;
  constexpr int kColumns = kDim / kColumnWarps;
  const int group = a.heads / a.k.heads;
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.z];
  const int kv_head = static_cast<int>(blockIdx.y) % a.k.heads;
  const int pairs = sequence.rows * group;
  if (take != Take::all && (pairs <= kFewPairs) != (take == Take::few)) return;
  const int tiles_per_token = (group + kTile - 1) / kTile;
  const int tiles = kChosen ? sequence.rows * tiles_per_token : (pairs + kTile - 1) / kTile;
  // x counts the parts of a split tile, and otherwise the tiles.
  const int index = static_cast<int>(kSplit ? blockIdx.y / static_cast<unsigned>(a.k.heads) : blockIdx.x);
  if (index >= tiles) return;
  const int tile = tiles - 1 - index;  // the longest first
  // The tile's pairs, counted within the sequence: [begin, end).
  const int begin = kChosen ? tile / tiles_per_token * group + tile % tiles_per_token * kTile : tile * kTile;
  const int end = kChosen ? min(begin + kTile, (tile / tiles_per_token + 1) * group) : min(begin + kTile, pairs);
  const int last_token = (end - 1) / group;

  PagedSource<kDim, kRowWarps * kColumnWarps, kChosen> source{
      a, a.sequences.pages + sequence.first_page, nullptr, kv_head, 0, {0, 0}};
  if constexpr (kChosen) {
    source.chosen = a.chosen + static_cast<int64_t>(sequence.first_row + last_token) * a.chosen_max;
    source.keys = count_chosen(source.chosen, a.chosen_max);
  } else {
    source.keys = sequence.context + last_token + 1;
  }
  const int blocks = (source.keys + kBlockKeys - 1) / kBlockKeys;
  const int part = kSplit ? static_cast<int>(blockIdx.x) : 0;
  const int first_block = part * kBlocksPerPart;
  if (first_block >= blocks) return;
  const int end_block = kSplit ? min(blocks, first_block + kBlocksPerPart) : blocks;

  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int column = warp / kRowWarps * kColumns;
  const int first_pair = begin + warp % kRowWarps * 16 + lane / 4;
  const bf16* queries[2];
  int64_t at[2];  // of the row's head, in heads of q and out
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = first_pair + 8 * half;
    const int token = pair / group;
    at[half] = static_cast<int64_t>(sequence.first_row + token) * a.heads + kv_head * group + pair % group;
    queries[half] = pair < end ? static_cast<const bf16*>(a.q) + at[half] * kDim : nullptr;
    source.seen[half] = pair >= end ? 0 : (kChosen ? source.keys : sequence.context + token + 1);
  }
  uint32_t query[kDim / 16][4];
  load_query<kDim>(queries[0], queries[1], query);
  const float c = a.scale * kLog2E;
  Rows<kColumns> rows;
  attend_tile<kDim, kColumns, kStages, !kSplit>(source, query, first_block, end_block, c, column, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (queries[half] == nullptr) continue;
    const RowState& state = rows.state[half];
    if constexpr (kSplit) {
      float* out = parts.data + (at[half] * parts.parts + part) * (kDim + 2);
#pragma unroll
      for (int tile_at = 0; tile_at < kColumns / 8; ++tile_at) {
        *reinterpret_cast<float2*>(out + column + 8 * tile_at + lane % 4 * 2) =
            make_float2(rows.mix[tile_at][2 * half], rows.mix[tile_at][2 * half + 1]);
      }
      if (lane % 4 == 0 && column == 0) *reinterpret_cast<float2*>(out + kDim) = make_float2(state.max, state.sum);
    } else {
      auto* out = reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.out) + at[half] * kDim);
#pragma unroll
      for (int tile_at = 0; tile_at < kColumns / 8; ++tile_at) {
        out[column / 2 + 4 * tile_at + lane % 4] = two_bf16(__fdiv_rn(rows.mix[tile_at][2 * half], state.sum),
                                                            __fdiv_rn(rows.mix[tile_at][2 * half + 1], state.sum));
      }
    }
  }
}

constexpr int kMergeWarps = 4;

/// Merges a row's parts in order, a warp per head.
template <int kDim>
__global__ void __launch_bounds__(32 * kMergeWarps) merge_kernel(PagedAttentionArguments a, Take take, PartsOut parts) {
  begin_kernel();
  constexpr int kOwn = kDim / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.y];
  const int group = a.heads / a.k.heads;
  if (take != Take::all && (sequence.rows * group <= kFewPairs) != (take == Take::few)) return;
  const int item = static_cast<int>(blockIdx.x) * kMergeWarps + static_cast<int>(threadIdx.x) / 32;
  if (item >= sequence.rows * a.heads) return;
  const int row = sequence.first_row + item / a.heads;
  const int keys = a.chosen == nullptr
                       ? sequence.context + item / a.heads + 1
                       : count_chosen(a.chosen + static_cast<int64_t>(row) * a.chosen_max, a.chosen_max);
  const int64_t at = static_cast<int64_t>(row) * a.heads + item % a.heads;
  const float c = a.scale * kLog2E;
  RowState total;
  float mix[kOwn] = {};
  const float* from = parts.data + at * parts.parts * (kDim + 2);
  const int count = (keys + kKeysPerPart - 1) / kKeysPerPart;
  constexpr int kAhead = 8;  // parts whose numbers are on their way together
  for (int first = 0; first < count; first += kAhead) {
    float2 states[kAhead];
    float mixes[kAhead][kOwn];
#pragma unroll
    for (int part = 0; part < kAhead; ++part) {
      const float* of = from + (first + part) * (kDim + 2);
      const bool valid = first + part < count;
      states[part] = valid ? *reinterpret_cast<const float2*>(of + kDim) : make_float2(-INFINITY, 0.0F);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) mixes[part][i] = valid ? of[lane * kOwn + i] : 0.0F;
    }
#pragma unroll
    for (int part = 0; part < kAhead; ++part) {
      if (first + part >= count) break;
      const MergeFactors factors = merge_parts(total, {states[part].x, states[part].y}, c);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) mix[i] = merged(mix[i], mixes[part][i], factors);
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    static_cast<bf16*>(a.out)[at * kDim + lane * kOwn + i] = to_bf16(__fdiv_rn(mix[i], total.sum));
  }
}

// -- any other shape or type -------------------------------------------------

constexpr int kPlainWarps = 4;
constexpr int kPlainChannels = kDimMax / 32;

__device__ __forceinline__ float plane_element(const DevicePlane& plane, const unsigned char* head, int slot, int i) {
  const int64_t at = static_cast<int64_t>(slot) * plane.dim + i;
  if (plane.element == Element::f32) return reinterpret_cast<const float*>(head)[at];
  if (plane.element == Element::bf16) return to_float(reinterpret_cast<const bf16*>(head)[at]);
  const float scale = reinterpret_cast<const float*>(head + static_cast<int64_t>(kPage) * plane.dim)[slot];
  if (plane.element == Element::i8) return __fmul_rn(to_float(reinterpret_cast<const int8_t*>(head)[at]), scale);
  return __fmul_rn(to_float(reinterpret_cast<const f8*>(head)[at]), scale);
}

/// A warp per (row, head), plain multiply-adds: f32, planes of few bits, unusual widths. Blocks and parts as above.
__global__ void __launch_bounds__(32 * kPlainWarps) plain_kernel(PagedAttentionArguments a) {
  begin_kernel();
  __shared__ float query_rows[kPlainWarps][kDimMax];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const DeviceSequence sequence = a.sequences.sequences[blockIdx.y];
  const int item = static_cast<int>(blockIdx.x) * kPlainWarps + warp;
  if (item >= sequence.rows * a.heads) return;
  const int d = a.k.dim;
  const int row = sequence.first_row + item / a.heads;
  const int head = item % a.heads;
  const int kv_head = head / (a.heads / a.k.heads);
  const int64_t at = (static_cast<int64_t>(row) * a.heads + head) * d;
  const int32_t* pages = a.sequences.pages + sequence.first_page;
  const int32_t* chosen = a.chosen == nullptr ? nullptr : a.chosen + static_cast<int64_t>(row) * a.chosen_max;
  const int keys = chosen == nullptr ? sequence.context + item / a.heads + 1 : count_chosen(chosen, a.chosen_max);
  const bool exact = a.element == Element::f32;
  float* query = query_rows[warp];
  for (int i = lane; i < d; i += 32) {
    query[i] = exact ? static_cast<const float*>(a.q)[at + i] : to_float(static_cast<const bf16*>(a.q)[at + i]);
  }
  __syncwarp();
  const float c = a.scale * kLog2E;
  RowState total;
  RowState state;
  float total_mix[kPlainChannels] = {};
  float mix[kPlainChannels] = {};
  const auto finish_part = [&] {
    const MergeFactors factors = merge_parts(total, state, c);
#pragma unroll
    for (int i = 0; i < kPlainChannels; ++i) {
      total_mix[i] = merged(total_mix[i], mix[i], factors);
      mix[i] = 0.0F;
    }
    state = {};
  };
  for (int first = 0; first < keys; first += kBlockKeys) {
    if (first > 0 && first % kKeysPerPart == 0) finish_part();
    float scores[2];  // of keys `lane` and `lane` + 32
    int32_t tokens[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = first + lane + 32 * half;
      tokens[half] = key < keys ? (chosen == nullptr ? key : chosen[key]) : 0;
      const unsigned char* from = head_of(a.k, pages[tokens[half] / kPage], kv_head);
      float dot = 0.0F;
      for (int i = 0; i < d; ++i) dot = fmaf(query[i], plane_element(a.k, from, tokens[half] % kPage, i), dot);
      scores[half] = key < keys ? dot : -INFINITY;
    }
    const float max = fmaxf(state.max, warp_max(fmaxf(scores[0], scores[1])));
    const float keep = decay(state.max, max, c);
    state.max = max;
    float weights[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) weights[half] = exp2f((scores[half] - max) * c);
    state.sum = fmaf(state.sum, keep, warp_sum(weights[0] + weights[1]));
#pragma unroll
    for (int i = 0; i < kPlainChannels; ++i) mix[i] *= keep;
    for (int key = 0; key < min(kBlockKeys, keys - first); ++key) {
      float weight = __shfl_sync(kAll, key < 32 ? weights[0] : weights[1], key % 32);
      const int32_t token = __shfl_sync(kAll, key < 32 ? tokens[0] : tokens[1], key % 32);
      if (!exact) weight = to_float(to_bf16(weight));
      const unsigned char* from = head_of(a.v, pages[token / kPage], kv_head);
#pragma unroll
      for (int i = 0; i < kPlainChannels; ++i) {
        const int channel = lane + 32 * i;
        if (channel < d) mix[i] = fmaf(weight, plane_element(a.v, from, token % kPage, channel), mix[i]);
      }
    }
  }
  finish_part();
#pragma unroll
  for (int i = 0; i < kPlainChannels; ++i) {
    const int channel = lane + 32 * i;
    if (channel >= d) continue;
    const float value = __fdiv_rn(total_mix[i], total.sum);
    if (exact) {
      static_cast<float*>(a.out)[at + channel] = value;
    } else {
      static_cast<bf16*>(a.out)[at + channel] = to_bf16(value);
    }
  }
}

// -- the host's side ---------------------------------------------------------

bool on_tensor_cores(const PagedAttentionArguments& a) {
  return a.element == Element::bf16 && a.k.element == Element::bf16 && a.v.element == Element::bf16 &&
         (a.k.dim == 128 || a.k.dim == 64);
}

/// Tiles of one sequence and KV head, and the keys that a row sees at most.
struct Plan {
  int tiles_few, tiles_many;  // of the longest sequence, as tiles of decoding and of whole prompts
  int parts;                  // that decoding tiles are cut into; 1: none
};
constexpr int kFewWarps = 4;
constexpr int kManyWarps = 8;
constexpr int64_t kPartsBytesMax = int64_t{512} << 20;

Plan plan_of(const PagedAttentionArguments& a, int processors) {
  const int group = a.heads / a.k.heads;
  const bool chosen = a.chosen != nullptr;
  const int keys = chosen ? a.chosen_max : a.sequences.length_max;
  Plan plan{};
  const int rows = a.sequences.rows_max;
  const int per_token = (group + 15) / 16;
  plan.tiles_few = chosen ? rows * per_token : (min(rows * group, kFewPairs) + 15) / 16;
  plan.tiles_many = (rows * group + 16 * kManyWarps - 1) / (16 * kManyWarps);
  plan.parts = (keys + kKeysPerPart - 1) / kKeysPerPart;
  const int64_t blocks = static_cast<int64_t>(plan.tiles_few) * a.k.heads * a.sequences.count;
  const int64_t bytes = static_cast<int64_t>(a.n) * a.heads * plan.parts * (a.k.dim + 2) * 4;
  if (blocks >= 4 * processors || bytes > kPartsBytesMax || plan.tiles_few * a.k.heads > 65535) plan.parts = 1;
  return plan;
}

template <int kDim>
void run_paged(Stream stream, const PagedAttentionArguments& a, int processors) {
  const Plan plan = plan_of(a, processors);
  const int group = a.heads / a.k.heads;
  const auto heads = static_cast<unsigned>(a.k.heads);
  const auto count = static_cast<unsigned>(a.sequences.count);
  const bool chosen = a.chosen != nullptr;
  const bool many = !chosen && a.sequences.rows_max * group > kFewPairs;
  const bool few = !many || a.sequences.count > 1;
  const PartsOut parts{a.workspace, plan.parts};
  if (few) {
    constexpr int kStages = 3;
    constexpr size_t kShared = kStages * kStageBytes<kDim>;
    const Take take = many ? Take::few : Take::all;
    if (plan.parts > 1) {
      const dim3 grid(static_cast<unsigned>(plan.parts), heads * static_cast<unsigned>(plan.tiles_few), count);
      launch(stream, grid, 32 * kFewWarps, kShared,
             chosen ? paged_kernel<kDim, 1, kFewWarps, kStages, true, true>
                    : paged_kernel<kDim, 1, kFewWarps, kStages, false, true>,
             a, take, parts);
      const auto merges = static_cast<unsigned>((a.sequences.rows_max * a.heads + kMergeWarps - 1) / kMergeWarps);
      launch(stream, dim3(merges, count), 32 * kMergeWarps, 0, merge_kernel<kDim>, a, take, parts);
    } else {
      launch(stream, dim3(static_cast<unsigned>(plan.tiles_few), heads, count), 32 * kFewWarps, kShared,
             chosen ? paged_kernel<kDim, 1, kFewWarps, kStages, true, false>
                    : paged_kernel<kDim, 1, kFewWarps, kStages, false, false>,
             a, take, parts);
    }
  }
  if (many && a.hopper) {
    check_cuda(flash_paged(stream, a, few ? kFewPairs : 0), "flash_paged");
  } else if (many) {
    constexpr int kStages = 2;
    launch(stream, dim3(static_cast<unsigned>(plan.tiles_many), heads, count), 32 * kManyWarps,
           kStages * kStageBytes<kDim>, paged_kernel<kDim, kManyWarps, 1, kStages, false, false>, a,
           few ? Take::many : Take::all, parts);
  }
}

}  // namespace

void attention_input(Stream stream, const AttentionInputArguments& a) {
  if (a.n == 0) return;
  const int64_t items = static_cast<int64_t>(a.n) * (a.heads + 2 * a.k.heads);
  const bool narrow = a.q_element == Element::bf16 && a.k.element == Element::bf16 && a.v.element == Element::bf16;
  launch(stream, static_cast<unsigned>((items + kInputWarps - 1) / kInputWarps), 32 * kInputWarps, 0,
         narrow && a.k.dim == 128 ? input128_kernel : input_kernel, a);
}

int64_t paged_attention_workspace(const PagedAttentionArguments& a, int processors) {
  if (!on_tensor_cores(a)) return 0;
  const Plan plan = plan_of(a, processors);
  return plan.parts == 1 ? 0 : static_cast<int64_t>(a.n) * a.heads * plan.parts * (a.k.dim + 2);
}

void paged_attention(Stream stream, const PagedAttentionArguments& a, int processors) {
  if (a.n == 0 || a.sequences.count == 0) return;
  if (on_tensor_cores(a))
    return a.k.dim == 128 ? run_paged<128>(stream, a, processors) : run_paged<64>(stream, a, processors);
  const auto blocks = static_cast<unsigned>((a.sequences.rows_max * a.heads + kPlainWarps - 1) / kPlainWarps);
  launch(stream, dim3(blocks, static_cast<unsigned>(a.sequences.count)), 32 * kPlainWarps, 0, plain_kernel, a);
}

}  // namespace keye::ops::cuda
