// Plain loops for every op, f32 sums in the documented order: the textbook, the oracle of the tests, and what runs
// where no faster kernel exists. One thread, no intrinsics.
#pragma once

#include "ops/backend.h"

namespace keye::ops {

/// The factors of a matrix of e4m3 blocks, for who packs the elements otherwise.
void pack_scales(const PackMatrix& source, PackedMatrix& packed);

class RefBackend : public Backend {
 public:
  std::string_view name() const override { return "ref"; }
  void for_each(int64_t items, const std::function<void(int64_t item, int worker)>& body) override {
    for (int64_t item = 0; item < items; ++item) body(item, 0);
  }
  int workers() const override { return 1; }
  bool keeps_blocks() const override { return true; }
  PackedMatrix do_pack(const PackMatrix& source) override;          // ref/linear.cc
  PackedMatrix random_matrix(const RandomMatrix& matrix) override;  // packed_matrix.cc
  void do_linear(const Linear& op) override;                        // ref/linear.cc
  void do_grouped_linear(const GroupedLinear& op) override;         // ref/linear.cc
  void do_embed(const Embed& op) override;                          // ref/rows.cc
  void do_copy_rows(const CopyRows& op) override;                   // ref/rows.cc
  void do_convert(const Convert& op) override;                      // ref/rows.cc
  void do_rms_norm(const RmsNorm& op) override;                     // ref/norm.cc
  void do_layer_norm(const LayerNorm& op) override;                 // ref/norm.cc
  void do_rope_table(const RopeTable& op) override;                 // ref/rope.cc
  void do_attention_input(const AttentionInput& op) override;       // ref/attention.cc
  void do_paged_attention(const PagedAttention& op) override;       // ref/attention.cc
  void do_vision_attention(const VisionAttention& op) override;     // ref/attention.cc
  void do_indexer_input(const IndexerInput& op) override;           // ref/indexer.cc
  void do_sparse_select(const SparseSelect& op) override;           // ref/indexer.cc
  bool has_latent_attention() const override { return true; }
  void do_latent_input(const LatentInput& op) override;           // ref/latent.cc
  void do_latent_query(const LatentQuery& op) override;           // ref/latent.cc
  void do_swap_axes(const SwapAxes& op) override;                 // ref/latent.cc
  void do_moe_route(const MoeRoute& op) override;                 // ref/moe.cc
  void do_moe_group(const MoeGroup& op) override;                 // ref/moe.cc
  void do_moe_combine(const MoeCombine& op) override;             // ref/moe.cc
  void do_add_position_grid(const AddPositionGrid& op) override;  // ref/vision.cc
  void do_merge_patches(const MergePatches& op) override;         // ref/vision.cc
};

}  // namespace keye::ops
