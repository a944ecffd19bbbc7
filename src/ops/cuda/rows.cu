#include "ops/cuda/number.h"
#include "ops/cuda/row_kernels.h"
#include "ops/cuda/simt.h"

namespace keye::ops::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }
bool by_four(const void* a, const void* b, int64_t c) {
  return c % 4 == 0 && reinterpret_cast<uintptr_t>(a) % 16 == 0 && reinterpret_cast<uintptr_t>(b) % 16 == 0;
}

__device__ __forceinline__ void store_four(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ __forceinline__ void store_four(bf16* to, float4 x) {
  *reinterpret_cast<uint2*>(to) = make_uint2(two_bf16(x.x, x.y), two_bf16(x.z, x.w));
}

constexpr int kNormThreads = 128;
constexpr int kNormHeld = 8;  // fours that a thread keeps

/// The block's sum, in an order that is always the same.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float parts[kNormThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffU, x, step);
  __syncthreads();  // the sum before this one has been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kNormThreads / 32; ++i) sum += parts[i];
  return sum;
}

// -- norms -------------------------------------------------------------------

/// One block per row; thread i has the elements 4 (i + 128 j) + {0, 1, 2, 3}, in vectors if kFours, and keeps the first
/// kNormHeld of those. Sums: each thread's own elements in order, then the block's tree.
template <class Out, bool kFours, bool kLayer>
__global__ void __launch_bounds__(kNormThreads)
    norm_kernel(const float* x, const float* weight, const float* bias, float eps, int64_t c, Out* out, float* exact) {
  begin_kernel();
  x += static_cast<int64_t>(blockIdx.x) * c;
  if (exact != nullptr) exact += static_cast<int64_t>(blockIdx.x) * c;
  out += static_cast<int64_t>(blockIdx.x) * c;
  const auto inverse_count = 1.0F / static_cast<float>(c);
  const auto load = [&](const float* from, int64_t i) {
    if constexpr (kFours) {
      return load_four(from + i);
    } else {
      return make_float4(from[i], i + 1 < c ? from[i + 1] : 0.0F, i + 2 < c ? from[i + 2] : 0.0F,
                         i + 3 < c ? from[i + 3] : 0.0F);
    }
  };
  float4 held[kNormHeld];
#pragma unroll
  for (int j = 0; j < kNormHeld; ++j) {
    const int64_t i = 4 * (static_cast<int64_t>(threadIdx.x) + kNormThreads * j);
    held[j] = i < c ? load(x, i) : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  }
  const auto for_each_four = [&](const auto& use) {
#pragma unroll
    for (int j = 0; j < kNormHeld; ++j) {
      const int64_t i = 4 * (static_cast<int64_t>(threadIdx.x) + kNormThreads * j);
      if (i < c) use(i, held[j]);
    }
    for (int64_t i = 4 * (static_cast<int64_t>(threadIdx.x) + kNormThreads * kNormHeld); i < c; i += 4 * kNormThreads) {
      use(i, load(x, i));
    }
  };
  float mean = 0.0F;
  if constexpr (kLayer) {
    float sum = 0.0F;
    for_each_four([&](int64_t, const float4& four) { sum = sum + four.x + four.y + four.z + four.w; });
    mean = block_sum(sum) * inverse_count;
  }
  float squares = 0.0F;
  for_each_four([&](int64_t i, const float4& four) {
    const auto add = [&](float value, int64_t at) {
      const float apart = value - mean;
      if (kFours || at < c) squares = fmaf(apart, apart, squares);
    };
    add(four.x, i);
    add(four.y, i + 1);
    add(four.z, i + 2);
    add(four.w, i + 3);
  });
  const float scale = 1.0F / sqrtf(block_sum(squares) * inverse_count + eps);
  const auto normed = [&](float of, float by, float plus) {
    const float value = __fmul_rn(__fmul_rn(of - mean, scale), by);
    return kLayer ? __fadd_rn(value, plus) : value;
  };
  for_each_four([&](int64_t i, const float4& four) {
    const float4 by = load(weight, i);
    const float4 plus = kLayer ? load(bias, i) : by;
    const float4 result = make_float4(normed(four.x, by.x, plus.x), normed(four.y, by.y, plus.y),
                                      normed(four.z, by.z, plus.z), normed(four.w, by.w, plus.w));
    if constexpr (kFours) {
      store_four(out + i, result);
      if (exact != nullptr) store_four(exact + i, result);
    } else {
      const float values[4] = {result.x, result.y, result.z, result.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i + j >= c) continue;
        out[i + j] = from_float<Out>(values[j]);
        if (exact != nullptr) exact[i + j] = values[j];
      }
    }
  });
}

template <class Out, bool kLayer>
void norm(Stream stream, const float* x, const float* weight, const float* bias, float eps, int64_t n, int64_t c,
          Out* out, float* exact) {
  if (n == 0) return;
  const auto kernel =
      by_four(x, out, c) && by_four(x, exact, c) ? norm_kernel<Out, true, kLayer> : norm_kernel<Out, false, kLayer>;
  launch(stream, static_cast<unsigned>(n), kNormThreads, 0, kernel, x, weight, bias, eps, c, out, exact);
}

// -- copies ------------------------------------------------------------------

/// Row from[i] of x to row to[i] of out, four elements a thread.
template <class In, class Out, bool kFours>
__global__ void copy_kernel(const In* x, const int32_t* from, const int32_t* to, int64_t count, int64_t c, Out* out) {
  begin_kernel();
  const int64_t pieces = (c + 3) / 4;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= count * pieces) return;
  const int64_t row = item / pieces;
  const int64_t at = item % pieces * 4;
  const In* source = x + static_cast<int64_t>(from == nullptr ? row : from[row]) * c + at;
  Out* target = out + static_cast<int64_t>(to == nullptr ? row : to[row]) * c + at;
  if constexpr (kFours) {
    store_four(target, load_four(source));
  } else {
    for (int64_t j = 0; j < min(c - at, int64_t{4}); ++j) target[j] = from_float<Out>(to_float(source[j]));
  }
}

/// The same of equal types, 16 bytes a thread: rows are `pieces` of 16 bytes.
__global__ void copy_pieces_kernel(const uint4* x, const int32_t* from, const int32_t* to, int64_t count,
                                   int64_t pieces, uint4* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= count * pieces) return;
  const int64_t row = item / pieces;
  const int64_t at = item % pieces;
  out[(to == nullptr ? row : to[row]) * pieces + at] = x[(from == nullptr ? row : from[row]) * pieces + at];
}

template <class In, class Out>
void copy(Stream stream, const void* x, const int32_t* from, const int32_t* to, int64_t count, int64_t c, void* out) {
  if (count == 0) return;
  if (sizeof(In) == sizeof(Out) && c * sizeof(In) % 16 == 0 && by_four(x, out, 4)) {
    const auto pieces = static_cast<int64_t>(static_cast<size_t>(c) * sizeof(In) / 16);
    return launch(stream, blocks_for(count * pieces), kThreads, 0, copy_pieces_kernel, static_cast<const uint4*>(x),
                  from, to, count, pieces, static_cast<uint4*>(out));
  }
  const auto kernel = by_four(x, out, c) ? copy_kernel<In, Out, true> : copy_kernel<In, Out, false>;
  launch(stream, blocks_for(count * ((c + 3) / 4)), kThreads, 0, kernel, static_cast<const In*>(x), from, to, count, c,
         static_cast<Out*>(out));
}

struct f16 {
  uint16_t bits;
};
__device__ __forceinline__ float to_float(f16 x) {
  const unsigned sign = static_cast<unsigned>(x.bits & 0x8000U) << 16;
  const unsigned exponent = (x.bits >> 10) & 0x1fU;
  const unsigned fraction = x.bits & 0x3ffU;
  if (exponent == 0) {
    const float small = static_cast<float>(fraction) * 5.9604644775390625e-8F;  // 2^-24
    return sign != 0 ? -small : small;
  }
  const unsigned wide = exponent == 31 ? 255U : exponent + 112U;
  return __uint_as_float(sign | wide << 23 | fraction << 13);
}

template <class Table>
__global__ void embed_kernel(const Table* table, const int32_t* tokens, int64_t n, int64_t c, float* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item < n * c) out[item] = to_float(table[static_cast<int64_t>(tokens[item / c]) * c + item % c]);
}

// -- positions ---------------------------------------------------------------

struct RopePositions {
  const int32_t* axis[3];
  int end[3];  // of each axis's pairs
};

__global__ void rope_kernel(RopePositions positions, const float* inv_freq, int pairs, int64_t n, float* cos_out,
                            float* sin_out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= n * pairs) return;
  const int64_t t = item / pairs;
  const int pair = static_cast<int>(item % pairs);
  const int32_t* axis = pair < positions.end[0]   ? positions.axis[0]
                        : pair < positions.end[1] ? positions.axis[1]
                                                  : positions.axis[2];
  const float angle = __fmul_rn(static_cast<float>(axis[t]), inv_freq[pair]);
  cos_out[item] = cosf(angle);
  sin_out[item] = sinf(angle);
}

// -- pictures ----------------------------------------------------------------

struct Tap {
  int low, high;
  float part;
};
/// For output i of n over a side: between `low` and `high`, `part` of the way.
__device__ __forceinline__ Tap tap(int side, int i, int n) {
  const float ratio = __fdiv_rn(static_cast<float>(side), static_cast<float>(n));
  const float at = __fmul_rn(static_cast<float>(i) + 0.5F, ratio) - 0.5F;  // not fused: the floor depends on it
  const float s = at > 0.0F ? at : 0.0F;
  const int low = min(static_cast<int>(s), side - 1);
  return {low, min(low + 1, side - 1), s - static_cast<float>(low)};
}

__global__ void position_grid_kernel(const float* table, int side, int rows, int cols, int64_t c, float* x) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= static_cast<int64_t>(rows) * cols * c) return;
  const int64_t patch = item / c;
  const int64_t i = item % c;
  const Tap vertical = tap(side, static_cast<int>(patch / cols), rows);
  const Tap horizontal = tap(side, static_cast<int>(patch % cols), cols);
  const auto at = [&](int r, int column) { return table[(static_cast<int64_t>(r) * side + column) * c + i]; };
  const float top =
      at(vertical.low, horizontal.low) * (1.0F - horizontal.part) + at(vertical.low, horizontal.high) * horizontal.part;
  const float bottom = at(vertical.high, horizontal.low) * (1.0F - horizontal.part) +
                       at(vertical.high, horizontal.high) * horizontal.part;
  x[item] += top * (1.0F - vertical.part) + bottom * vertical.part;
}

__global__ void merge_kernel(const float* x, int rows, int cols, int merge, int64_t c, float* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= static_cast<int64_t>(rows) * cols * c) return;
  const int64_t i = item % c;
  int64_t place = item / c;  // of the patch, in the order of out
  const int64_t column = place % merge;
  place /= merge;
  const int64_t row = place % merge;
  place /= merge;
  const int64_t across = cols / merge;
  const int64_t from_row = place / across * merge + row;
  const int64_t from_column = place % across * merge + column;
  out[item] = x[(from_row * cols + from_column) * c + i];
}

// -- others ------------------------------------------------------------------

template <class T>
__global__ void random_kernel(T* data, int64_t count, float scale, uint64_t seed) {
  begin_kernel();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    uint64_t z = seed * 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(i) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    const auto top = static_cast<uint32_t>(z >> 40);
    data[i] = from_float<T>((static_cast<float>(top) * 1.1920929e-7F - 1.0F) * scale);
  }
}

/// Order of values as keys: NaN below every number.
__device__ __forceinline__ bool better(float value, int32_t index, float than, int32_t than_index) {
  if (isnan(value)) return isnan(than) && index < than_index;
  return isnan(than) || value > than || (value == than && index < than_index);
}

constexpr int kArgmaxThreads = 1024;

__global__ void __launch_bounds__(kArgmaxThreads)
    argmax_kernel(const float* x, int64_t c, int32_t* index, float* value) {
  begin_kernel();
  __shared__ float values[kArgmaxThreads / 32];
  __shared__ int32_t indices[kArgmaxThreads / 32];
  x += static_cast<int64_t>(blockIdx.x) * c;
  float best = __uint_as_float(0x7fc00000U);
  int32_t at = 0x7fffffff;
  for (int64_t i = threadIdx.x; i < c; i += kArgmaxThreads) {
    if (better(x[i], static_cast<int32_t>(i), best, at)) {
      best = x[i];
      at = static_cast<int32_t>(i);
    }
  }
  const auto reduce = [&] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(0xffffffffU, best, step);
      const int32_t other_at = __shfl_xor_sync(0xffffffffU, at, step);
      if (better(other, other_at, best, at)) {
        best = other;
        at = other_at;
      }
    }
  };
  reduce();
  if (threadIdx.x % 32 == 0) {
    values[threadIdx.x / 32] = best;
    indices[threadIdx.x / 32] = at;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = values[threadIdx.x];
  at = indices[threadIdx.x];
  reduce();
  if (threadIdx.x == 0) {
    index[blockIdx.x] = at;
    value[blockIdx.x] = best;
  }
}

}  // namespace

void rms_norm(Stream stream, const float* x, const float* weight, float eps, int64_t n, int64_t c, void* out,
              bool out_f32, float* exact) {
  if (out_f32) return norm<float, false>(stream, x, weight, nullptr, eps, n, c, static_cast<float*>(out), exact);
  norm<bf16, false>(stream, x, weight, nullptr, eps, n, c, static_cast<bf16*>(out), exact);
}

void layer_norm(Stream stream, const float* x, const float* weight, const float* bias, float eps, int64_t n, int64_t c,
                void* out, bool out_f32) {
  if (out_f32) return norm<float, true>(stream, x, weight, bias, eps, n, c, static_cast<float*>(out), nullptr);
  norm<bf16, true>(stream, x, weight, bias, eps, n, c, static_cast<bf16*>(out), nullptr);
}

void copy_rows(Stream stream, const void* x, bool x_f32, const int32_t* from, const int32_t* to, int64_t count,
               int64_t c, void* out, bool out_f32) {
  const auto run =
      x_f32 ? (out_f32 ? copy<float, float> : copy<float, bf16>) : (out_f32 ? copy<bf16, float> : copy<bf16, bf16>);
  run(stream, x, from, to, count, c, out);
}

void convert(Stream stream, const void* x, bool x_f32, int64_t count, void* out, bool out_f32) {
  copy_rows(stream, x, x_f32, nullptr, nullptr, 1, count, out, out_f32);
}

void embed(Stream stream, const void* table, TableElement element, const int32_t* tokens, int64_t n, int64_t c,
           float* out) {
  if (element == TableElement::f32) return copy<float, float>(stream, table, tokens, nullptr, n, c, out);
  if (element == TableElement::bf16) return copy<bf16, float>(stream, table, tokens, nullptr, n, c, out);
  if (n > 0) {
    launch(stream, blocks_for(n * c), kThreads, 0, embed_kernel<f16>, static_cast<const f16*>(table), tokens, n, c,
           out);
  }
}

void rope_table(Stream stream, const int32_t* const positions[3], const float* inv_freq, int pairs,
                const int sections[3], int64_t n, float* cos, float* sin) {
  if (n == 0) return;
  RopePositions by_axis{};
  int end = 0;
  for (int axis = 0; axis < 3; ++axis) {
    end += sections[axis];
    by_axis.axis[axis] = positions[axis];
    by_axis.end[axis] = end;
  }
  launch(stream, blocks_for(n * pairs), kThreads, 0, rope_kernel, by_axis, inv_freq, pairs, n, cos, sin);
}

void add_position_grid(Stream stream, const float* table, int side, int rows, int cols, int64_t c, float* x) {
  launch(stream, blocks_for(static_cast<int64_t>(rows) * cols * c), kThreads, 0, position_grid_kernel, table, side,
         rows, cols, c, x);
}

void merge_patches(Stream stream, const float* x, int rows, int cols, int merge, int64_t c, float* out) {
  launch(stream, blocks_for(static_cast<int64_t>(rows) * cols * c), kThreads, 0, merge_kernel, x, rows, cols, merge, c,
         out);
}

void fill_random(Stream stream, void* data, bool f32, int64_t count, float scale, uint64_t seed) {
  const auto blocks = static_cast<unsigned>(min(static_cast<int64_t>(blocks_for(count)), int64_t{16384}));
  if (f32)
    return launch(stream, blocks, kThreads, 0, random_kernel<float>, static_cast<float*>(data), count, scale, seed);
  launch(stream, blocks, kThreads, 0, random_kernel<bf16>, static_cast<bf16*>(data), count, scale, seed);
}

void argmax_rows(Stream stream, const float* x, int64_t n, int64_t c, int32_t* index, float* value) {
  if (n > 0) launch(stream, static_cast<unsigned>(n), kArgmaxThreads, 0, argmax_kernel, x, c, index, value);
}

}  // namespace keye::ops::cuda
