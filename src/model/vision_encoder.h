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
  /// As Model::begin_vision and advance_vision: a slice is half a layer of one pass.
  void begin(ConstView pixels, std::span<const VisionGrid> grids, View out);
  bool advance();
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
    Tensor hidden;           // [p, c] f32
    Tensor uploaded_pixels;  // [p, 3 ps ps] f32, for a backend that does not share the host's memory
    Tensor pixels;           // [p, 3 ps ps]
    Tensor normed;           // [p, c]
    Tensor qkv;              // [p, 3, h, d]
    Tensor mixed;            // [p, c]
    Tensor inner;            // [kRowsPerPass, f]
    Tensor cos, sin;         // [p, d / 2] f32
    Tensor final_hidden;     // [p, c] f32
    Tensor merged;           // [p / m^2, m^2 c] f32
    Tensor merged_normed, projected;
  };

  /// The work begun: passes over whole pictures, each of them embedded, taken through the layers, projected.
  struct Job {
    ConstView pixels;
    std::vector<VisionGrid> grids;
    View out;
    size_t first_grid = 0, end_grid = 0;   // of the current pass
    int64_t first_patch = 0, patches = 0;  // of the current pass
    int64_t first_token = 0, tokens = 0;   // of the current pass
    std::vector<int32_t> segments;         // where each picture of the pass begins, and the end
    size_t half_layers = 0;                // done, of the current pass
    std::span<const VisionGrid> pass_grids() const {
      return std::span(grids).subspan(first_grid, end_grid - first_grid);
    }
  };

  /// Sets the next pass up; false if there is none.
  bool next_pass();
  void embed();
  void reserve(int64_t patches);
  void prepare_positions(std::span<const VisionGrid> grids);
  void attend(const Layer& layer);
  void feed_forward(const Layer& layer);
  void project();
  void norm(const Norm& norm, ConstView x, float eps, View out);
  void stack_biases();

  VisionConfig config_;
  int text_hidden_;
  ops::Backend& backend_;
  DType dtype_;
  int64_t patches_per_pass_, rows_per_pass_;
  bool norm_before_merge_ = false;
  bool biases_stacked_ = false;
  Product patch_embedding_;
  Tensor position_table_;  // [side^2, c]
  std::vector<Layer> layers_;
  Norm post_norm_, projector_norm_;
  Product projector1_, projector2_;
  Workspace work_;
  Job job_;
  Tensor inv_freq_;  // [p] f32: rows' pairs, then columns' pairs
  Probe probe_;
};

}  // namespace keye::model
