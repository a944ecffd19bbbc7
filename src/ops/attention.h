// Grouped-query attention of a decoder over a paged cache, and full attention of an encoder.
#pragma once

#include <cstdint>
#include <span>

#include "ops/paged_kv.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

inline constexpr int kHeadDimMax = 256;

/// What stands between a layer's q|k|v product and its attention: per-head RMSNorm of q and k, rotation of the pairs
/// (i, i + d/2), and the write of k and v into the cache.
///   qkv      [n, (h + 2 g) d] f32       q_norm, k_norm  [d] f32
///   cos, sin [n, d / 2] f32             slots  [n]: page * 64 + offset of every new token; those of one page are
///   q        [n, h, d] bf16 or f32             neighbours, in order
///   k, v     planes of g heads, dtype of q; d is even, at most kHeadDimMax
struct AttentionInput {
  ConstView qkv;
  ConstView q_norm;
  ConstView k_norm;
  float eps;
  ConstView cos;
  ConstView sin;
  std::span<const int32_t> slots;
  View q;
  KvPlane k;
  KvPlane v;
};
void attention_input(Backend& backend, const AttentionInput& op);

/// Causal attention: row t of a sequence, at index i, mixes the values of the indices [0, i], or of those among them
/// whose bit is set in its selection.
///   q          [n, h, d] bf16 or f32        k, v  planes of g heads (h % g == 0), dtype of q
///   selection  [n, selection_words] bits, bit j % 64 of word j / 64 for index j; null: all
///   out        [n, h d] dtype of q
/// A row without any gives zeros. Pages are visited in order from index 0, with running maximum and sum: a row's result
/// depends on its own length and selection alone.
struct PagedAttention {
  ConstView q;
  KvPlane k;
  KvPlane v;
  std::span<const SequenceRows> sequences;
  float scale;
  const uint64_t* selection = nullptr;
  int64_t selection_words = 0;
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
  std::span<const int32_t> segments;
  int heads;
  float scale;
  View out;
};
void vision_attention(Backend& backend, const VisionAttention& op);

}  // namespace keye::ops
