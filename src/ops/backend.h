// The complete list of what a device must do: read it to know the engine's vocabulary.
//
// Models call the checked functions (`ops::linear(backend, {...})`), which verify shapes and dtypes once and then call
// the backend's do_* below. RefBackend is the plain reference and the oracle of the tests; CpuBackend overrides what it
// does faster.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "ops/attention.h"
#include "ops/indexer.h"
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/norm.h"
#include "ops/packed_matrix.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/vision.h"

namespace keye::ops {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  /// The host's own work between two ops, such as sampling: body(item, worker) once for every item, worker in
  /// [0, workers()), on whatever threads the backend has.
  virtual void for_each(int64_t items, const std::function<void(int64_t item, int worker)>& body) = 0;
  virtual int workers() const = 0;
  virtual PackedMatrix do_pack(const PackMatrix& source) = 0;

  virtual void do_embed(const Embed& op) = 0;
  virtual void do_copy_rows(const CopyRows& op) = 0;
  virtual void do_convert(const Convert& op) = 0;
  virtual void do_linear(const Linear& op) = 0;
  virtual void do_grouped_linear(const GroupedLinear& op) = 0;
  virtual void do_rms_norm(const RmsNorm& op) = 0;
  virtual void do_layer_norm(const LayerNorm& op) = 0;
  virtual void do_rope_table(const RopeTable& op) = 0;
  virtual void do_attention_input(const AttentionInput& op) = 0;
  virtual void do_paged_attention(const PagedAttention& op) = 0;
  virtual void do_indexer_input(const IndexerInput& op) = 0;
  virtual void do_sparse_select(const SparseSelect& op) = 0;
  virtual void do_moe_route(const MoeRoute& op) = 0;
  virtual void do_moe_combine(const MoeCombine& op) = 0;
  virtual void do_vision_attention(const VisionAttention& op) = 0;
  virtual void do_add_position_grid(const AddPositionGrid& op) = 0;
  virtual void do_merge_patches(const MergePatches& op) = 0;
};

/// Packs weights for this backend's kernels; checks the blocks' shapes.
PackedMatrix pack(Backend& backend, const PackMatrix& source);

/// The plain loops: one thread, no intrinsics.
std::unique_ptr<Backend> make_ref_backend();

struct CpuOptions {
  int threads = 0;  // 0: one per processor that this process may use
  std::string isa;  // "": the best that the processor has; or "avx512_bf16", "avx512", "avx2", "scalar"
};
/// Errors: unsupported (an instruction set that this processor or build lacks, by name).
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);

}  // namespace keye::ops
