// Row-wise ops on the device: what norm.h, rope.h, rows.h, moe.h and vision.h promise.
#pragma once

#include <cstdint>

#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

enum class TableElement : uint8_t { f32, f16, bf16 };

/// out [n, c] f32 = table[tokens[t]]
void embed(Stream stream, const void* table, TableElement element, const int32_t* tokens, int64_t n, int64_t c,
           float* out);
/// out[to[i]] = x[from[i]] for i < count; null `to` or `from`: i itself.
void copy_rows(Stream stream, const void* x, bool x_f32, const int32_t* from, const int32_t* to, int64_t count,
               int64_t c, void* out, bool out_f32);
void convert(Stream stream, const void* x, bool x_f32, int64_t count, void* out, bool out_f32);
/// exact [n, c]: the result before rounding, too, or null.
void rms_norm(Stream stream, const float* x, const float* weight, float eps, int64_t n, int64_t c, void* out,
              bool out_f32, float* exact);
void layer_norm(Stream stream, const float* x, const float* weight, const float* bias, float eps, int64_t n, int64_t c,
                void* out, bool out_f32);
/// positions: three rows of n; the angle is the f32 product, cos and sin accurate to f32 at any angle.
void rope_table(Stream stream, const int32_t* const positions[3], const float* inv_freq, int pairs,
                const int sections[3], int64_t n, float* cos, float* sin);
/// At most 1024 experts and 64 choices. Ties: lower index; order and sums as moe.h says.
void moe_route(Stream stream, const float* logits, int64_t n, int experts, int k, bool normalise, int32_t* chosen,
               float* weights);
/// Sorts the (token, choice) pairs by expert, tokens in order: rows[p] is the token of pair p, places[t, j] where pair
/// (t, j) went, offsets[e] where expert e's begin. counts: workspace of moe_group_workspace() numbers.
int64_t moe_group_workspace(int64_t n, int experts, int k);
void moe_group(Stream stream, const int32_t* chosen, int64_t n, int experts, int k, int32_t* rows, int32_t* offsets,
               int32_t* places, int32_t* workspace);
/// out[t] += sum_j weights[t, j] y[places[t, j]], in the order of j.
void moe_combine(Stream stream, const void* y, bool y_f32, const int32_t* places, const float* weights, int64_t n,
                 int k, int64_t c, float* out);
void add_position_grid(Stream stream, const float* table, int side, int rows, int cols, int64_t c, float* x);
void merge_patches(Stream stream, const float* x, int rows, int cols, int merge, int64_t c, float* out);
/// Pseudo-random values in [-scale, scale), the same for a seed: weights for benchmarks.
void fill_random(Stream stream, void* data, bool f32, int64_t count, float scale, uint64_t seed);
/// index [n] of the largest of each row (ties: lower index; NaN below every number), and its value.
void argmax_rows(Stream stream, const float* x, int64_t n, int64_t c, int32_t* index, float* value);

}  // namespace keye::ops::cuda
