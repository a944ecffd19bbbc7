// The Keye vision encoder (SigLIP type, native resolution, 2-D rotary positions) and its merging projector.
#pragma once

#include <vector>

#include "model/model.h"

namespace keye::model {

class VisionEncoder {
 public:
  VisionEncoder(const VisionConfig& config, int text_hidden, ops::Backend& backend, DType dtype);

  /// `norm_before_merge`: the 8B-preview projector normalises each patch, the later ones the merged vector.
  void list_weights(WeightList& list, bool norm_before_merge);
  void encode(ConstView pixels, std::span<const VisionGrid> grids, View out);
  void set_probe(Probe probe) { probe_ = std::move(probe); }

 private:
  struct Norm {
    Tensor weight, bias;
  };
  struct Product {
    ops::PackedMatrix weight;
    Tensor bias;
  };
  struct Layer {
    Norm norm1, norm2;
    Product qkv, out, fc1, fc2;
    Tensor q_bias, k_bias, v_bias;  // as stored; stacked into qkv.bias after loading
  };
  /// Activations for as many patches as one pass takes; grows to the largest picture seen.
  struct Workspace {
    int64_t patches = 0;
    Tensor hidden;        // [p, c] f32
    Tensor pixels;        // [p, 3 ps ps]
    Tensor normed;        // [p, c]
    Tensor qkv;           // [p, 3, h, d]
    Tensor mixed;         // [p, c]
    Tensor inner;         // [kRowsPerPass, f]
    Tensor cos, sin;      // [p, d / 2] f32
    Tensor final_hidden;  // [p, c] f32
    Tensor merged;        // [p / m^2, m^2 c] f32
    Tensor merged_normed, projected;
  };

  void encode_pass(ConstView pixels, std::span<const VisionGrid> grids, View out);
  void reserve(int64_t patches);
  void prepare_positions(std::span<const VisionGrid> grids);
  void apply(const Layer& layer, int64_t p, std::span<const int32_t> segments);
  void project(std::span<const VisionGrid> grids, int64_t p, View out);
  void norm(const Norm& norm, ConstView x, float eps, View out);
  void stack_biases();

  VisionConfig config_;
  int text_hidden_;
  ops::Backend& backend_;
  DType dtype_;
  bool norm_before_merge_ = false;
  bool biases_stacked_ = false;
  Product patch_embedding_;
  Tensor position_table_;  // [side^2, c]
  std::vector<Layer> layers_;
  Norm post_norm_, projector_norm_;
  Product projector1_, projector2_;
  Workspace work_;
  std::vector<float> inv_freq_;  // rows' pairs, then columns' pairs
  Probe probe_;
};

}  // namespace keye::model
