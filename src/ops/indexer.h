// The sparse-attention indexer: a small scorer that chooses which earlier tokens a token may attend to.
#pragma once

#include <cstdint>

#include "ops/indices.h"
#include "ops/paged_kv.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// From the indexer's projections to its queries and keys: RMSNorm of each query head, LayerNorm of the key, rotation
/// of the pairs (i, i + D/2), Hadamard rotation (natural order, scaled by D^-0.5); the key is written to the cache.
///   q_gate  [n, H D + H] f32: queries head by head, then one gate per head     k_in  [n, D] f32
///   q_norm, k_norm, k_bias  [D] f32       cos, sin  [n, D / 2] f32       slots  [n] as in AttentionInput
///   q       [n, H, D] f32 or bf16         gate  [n, H] f32, multiplied by D^-0.5
///   keys    one head of D, q's dtype, keys layout (rows if the backend wants_rows())
///   D is a power of two
/// In f32 that is all. In bf16 it is the published arithmetic: queries and keys are rounded to bf16 after each step
/// (the rotation rounds every product), and then to e4m3 with a power-of-two scale for each of them. Those numbers have
/// 4 bits, so they are bf16 numbers, too, and products of two of them are exact.
struct IndexerInput {
  ConstView q_gate;
  ConstView k_in;
  ConstView q_norm;
  ConstView k_norm;
  ConstView k_bias;
  float eps;
  ConstView cos;
  ConstView sin;
  Indices slots;
  View q;
  View gate;
  KvPlane keys;
};
void indexer_input(Backend& backend, const IndexerInput& op);

/// score[t, s] = sum_h gate[t, h] max(0, q[t, h] . key[s]) for s <= index of t; keeps the topk best of each row: score
/// descending, then index ascending. Rows with at most topk candidates keep them all.
/// Both sums run in order, over the D channels of a head (in bf16 over pairs) and then over the heads, for every n and
/// chunk. A NaN score is below every number.
///   q [n, H, D] f32 or bf16     gate [n, H] f32     keys  one head of D, q's dtype
///   chosen  [n, topk] i32 out: what is kept, ascending, then -1
///   scores  [n, m] f32 out for tests, or empty: the scores themselves, 0 beyond the row's index
struct SparseSelect {
  ConstView q;
  ConstView gate;
  KvPlane keys;
  Sequences sequences;
  View chosen;
  View scores = {};
};
void sparse_select(Backend& backend, const SparseSelect& op);

}  // namespace keye::ops
