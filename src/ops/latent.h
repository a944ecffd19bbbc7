// What stands around the attention of DeepSeek-V3 (MLA), whose heads share one latent key and value for each token. The
// attention itself is paged_attention with a single key/value head: the cached row of a token is [latent | rotated
// part], all of it is the key, and its beginning, the latent, the value.
#pragma once

#include "ops/indices.h"
#include "ops/paged_kv.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// Splits and prepares the first product of a layer: RMSNorm of the compressed query and of the latent, rotation of the
/// neighbouring pairs (2 i, 2 i + 1) of the part that is rotated, and the write of both into the cache.
///   x        [n, a + r + p] f32: compressed query, latent, rotated part
///   q_norm   [a] f32     kv_norm  [r] f32
///   cos, sin [n, p / 2] f32, each multiplied by rope_scale
///   slots    [n] as in AttentionInput
///   q        [n, a] bf16 or f32
///   rows     plane of one head of r + p elements in the layout rows: q's dtype, i8 or f8_e4m3
struct LatentInput {
  ConstView x;
  ConstView q_norm;
  ConstView kv_norm;
  float eps;
  ConstView cos;
  ConstView sin;
  float rope_scale;
  Indices slots;
  View q;
  KvPlane rows;
};
void latent_input(Backend& backend, const LatentInput& op);

/// The queries that meet the cached rows: each head's part that was brought into the latent space, and beside it the
/// head's own rotated part.
///   x        [n, h, d + p] f32: of which the last p are rotated as in LatentInput
///   latent   [h, n, r] bf16 or f32
///   q        [n, h, r + p] dtype of latent
struct LatentQuery {
  ConstView x;
  ConstView latent;
  ConstView cos;
  ConstView sin;
  float rope_scale;
  View q;
};
void latent_query(Backend& backend, const LatentQuery& op);

/// out[b][a][i] = x[a][b][i] for the first w elements, converted.
///   x  [a, b, at least w] f32 or bf16     out  [b, a, w] f32 or bf16 (rounded to nearest even if x is f32)
struct SwapAxes {
  ConstView x;
  View out;
};
void swap_axes(Backend& backend, const SwapAxes& op);

}  // namespace keye::ops
