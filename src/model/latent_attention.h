// Attention of DeepSeek-V3 (MLA): queries and keys/values are compressed, and one latent row for each token is all that
// the cache holds. Queries are brought into the latent space of the keys, and the mixes of latents from there into the
// heads' own ("absorbed"), for prompts as for replies: another form for prompts would need less arithmetic, but then a
// token's bits would depend on whether it came as part of a prompt.
#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace keye::model {

class LatentAttention {
 public:
  LatentAttention(const TextConfig& config, ops::Backend& backend, const ModelOptions& options);

  /// What the cache holds for each token: [latent | rotated part of the key].
  PlaneSpec plane(const ModelOptions& options) const;
  /// `prefix`: of the layer's names, with its dot. Layers come in order.
  void list_weights(WeightList& list, const std::string& prefix);

  /// The step's positions, before any layer.
  void begin_step(const std::array<ops::Indices, 3>& positions, int64_t tokens);
  /// Adds this rank's heads' part of the layer's attention over `normed` [n, c] to `out` [n, c] f32, or writes it
  /// there.
  void attend(int layer, ConstView normed, ops::Indices slots, ops::Sequences sequences, const ops::KvPlane& plane,
              View out, bool accumulate);

 private:
  struct Layer {
    ops::PackedMatrix down;                   // [a + r + p, c]: compressed query, latent, rotated part of the key
    Tensor query_norm;                        // [a]
    Tensor latent_norm;                       // [r]
    ops::PackedMatrix query_up;               // [h (d + p), a]
    std::vector<ops::PackedMatrix> key_up;    // each head's [r, d]: from its query into the latent space
    std::vector<ops::PackedMatrix> value_up;  // each head's [v, r]: from there into its values
    ops::PackedMatrix out;                    // [c, h v]
  };
  struct Workspace {
    Tensor down;          // [n, a + r + p] f32
    Tensor query;         // [n, a]
    Tensor heads;         // [n, h (d + p)] f32
    Tensor plain;         // [h, n, d]
    Tensor latent_query;  // [h, n, r]
    Tensor q;             // [n, h, r + p]
    Tensor mixed;         // [n, h r]
    Tensor values;        // [h, n, v]
    Tensor joined;        // [n, h v]
    Tensor cos, sin;      // [n, p / 2] f32
    Tensor offsets;       // [h + 1] i32: where each head's rows begin
    Tensor rows;          // [h n] i32: head by head, where a token's mix lies
  };

  int all_heads_;
  Shard::Range head_range_;  // this rank's
  int heads_;
  int hidden_;
  float norm_eps_;
  LatentConfig config_;
  ops::Backend& backend_;
  DType dtype_;
  std::vector<Layer> layers_;
  int listed_ = 0;
  Tensor inv_freq_;   // [p / 2] f32
  float rope_scale_;  // of cosines and sines
  float softmax_scale_;
  Workspace work_;
  int64_t tokens_ = 0;  // of the step
};

}  // namespace keye::model
