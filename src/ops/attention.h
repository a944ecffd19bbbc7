// Grouped-query attention of a decoder over a paged cache, and full attention of an encoder.
#pragma once

#include <cstdint>

#include "ops/indices.h"
#include "ops/paged_kv.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

inline constexpr int kHeadDimMax = 576;

/// Ends the process unless `slots` are those of n new tokens, as AttentionInput has them.
void check_slots(const Indices& slots, int64_t n);

/// What stands between a layer's q|k|v product and its attention: per-head RMSNorm of q and k, rotation of the pairs
/// (i, i + d/2), and the write of k and v into the cache.
///   qkv      [n, (h + 2 g) d] f32       q_norm, k_norm  [d] f32
///   cos, sin [n, d / 2] f32             slots  [n]: page * 64 + offset of every new token; those of one page are
///   q        [n, h, d] bf16 or f32             neighbours, in order
///   k, v     planes of g heads; d is even, at most kHeadDimMax
/// A plane is in the layout keys (k) or values (v) and q's dtype, or in the layout rows and q's dtype, i8 or f8_e4m3.
struct AttentionInput {
  ConstView qkv;
  ConstView q_norm;
  ConstView k_norm;
  float eps;
  ConstView cos;
  ConstView sin;
  Indices slots;
  View q;
  KvPlane k;
  KvPlane v;
};
void attention_input(Backend& backend, const AttentionInput& op);

/// Causal attention: row t of a sequence, at index i, mixes the values of the indices [0, i], or of those that its row
/// of `chosen` names.
///   q       [n, h, d] bf16 or f32     k, v  planes of g heads (h % g == 0), as in AttentionInput
///   chosen  [n, m] i32, or empty: indices in [0, i], ascending, at least one; then -1. Needs planes in the layout rows
///   out     [n, h w] dtype of q, w being the width of v's heads: at most d
/// Keys are visited in order, 64 at a time, with running maximum and sum: a row's result depends on its own length or
/// choice alone. A choice of all indices gives the bits that no choice gives, and planes of one dtype the same bits in
/// every layout.
struct PagedAttention {
  ConstView q;
  KvPlane k;
  KvPlane v;
  Sequences sequences;
  float scale;
  ConstView chosen = {};
  View out;
};
void paged_attention(Backend& backend, const PagedAttention& op);

/// Full attention inside each segment of patches, after rotating q and k by pairs (i, i + d/2).
///   qkv       [p, 3, h, d] f32 or bf16 (q, then k, then v)     cos, sin  [p, d / 2] f32
///   segments  [s + 1] offsets, from 0 to p                     out       [p, h d] bf16 or f32
/// The arithmetic is that of out's dtype (bf16: operands rounded to bf16, f32 sums).
struct VisionAttention {
  ConstView qkv;
  ConstView cos;
  ConstView sin;
  Indices segments;
  int heads;
  float scale;
  View out;
};
void vision_attention(Backend& backend, const VisionAttention& op);

}  // namespace keye::ops
