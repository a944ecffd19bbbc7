// The CPU backend: packed kernels for AVX2, AVX-512 and AVX-512 bf16, chosen once, over a pool of pinned threads. What
// it does not override, and everything under Isa::scalar, is the reference.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "ops/cpu/isa.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {

class CpuBackend final : public RefBackend {
 public:
  CpuBackend(int threads, Isa isa);

  std::string_view name() const override { return name_; }
  void for_each(int64_t items, const std::function<void(int64_t item, int worker)>& body) override {
    pool_.finish_each(items, body);
  }
  int workers() const override { return pool_.size(); }
  void interrupt() override { pool_.interrupt(); }
  void resume() override { pool_.resume(); }
  Isa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }

  PackedMatrix do_pack(const PackMatrix& source) override;        // cpu/pack.cc
  void do_linear(const Linear& op) override;                      // cpu/linear.cc
  void do_grouped_linear(const GroupedLinear& op) override;       // cpu/linear.cc
  void do_embed(const Embed& op) override;                        // cpu/rows.cc
  void do_copy_rows(const CopyRows& op) override;                 // cpu/rows.cc
  void do_convert(const Convert& op) override;                    // cpu/rows.cc
  void do_rms_norm(const RmsNorm& op) override;                   // cpu/norm.cc
  void do_layer_norm(const LayerNorm& op) override;               // cpu/norm.cc
  void do_rope_table(const RopeTable& op) override;               // cpu/rows.cc
  void do_attention_input(const AttentionInput& op) override;     // cpu/attention.cc
  void do_paged_attention(const PagedAttention& op) override;     // cpu/attention.cc
  void do_vision_attention(const VisionAttention& op) override;   // cpu/vision_attention.cc
  void do_indexer_input(const IndexerInput& op) override;         // cpu/indexer.cc
  void do_sparse_select(const SparseSelect& op) override;         // cpu/indexer.cc
  void do_latent_input(const LatentInput& op) override;           // cpu/latent.cc
  void do_latent_query(const LatentQuery& op) override;           // cpu/latent.cc
  void do_swap_axes(const SwapAxes& op) override;                 // cpu/latent.cc
  void do_moe_route(const MoeRoute& op) override;                 // cpu/moe.cc
  void do_moe_combine(const MoeCombine& op) override;             // cpu/moe.cc
  void do_add_position_grid(const AddPositionGrid& op) override;  // cpu/rows.cc
  void do_merge_patches(const MergePatches& op) override;         // cpu/rows.cc

 private:
  /// Scratch of one thread, at least `bytes` large, 64-byte aligned; grows at first use and then stays.
  void* scratch(int worker, size_t bytes);
  /// Scratch that all threads share during one op.
  void* shared_scratch(size_t bytes);

  Isa isa_;
  ThreadPool pool_;
  std::string name_;
  std::vector<Buffer> scratch_;
  Buffer shared_scratch_;
};

}  // namespace keye::ops
