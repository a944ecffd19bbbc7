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
#include "ops/latent.h"
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
  /// [0, workers()), on whatever threads the backend has. It is never interrupted.
  virtual void for_each(int64_t items, const std::function<void(int64_t item, int worker)>& body) = 0;
  virtual int workers() const = 0;
  /// From any thread: the op under way, and all that begin before resume(), end soon by throwing LoopInterrupted; what
  /// they write is worthless. A device whose ops cannot be interrupted does nothing.
  virtual void interrupt() {}
  virtual void resume() {}

  /// Where all that ops read and write must lie, host's numbers excepted.
  virtual Memory& memory() { return host_memory(); }
  virtual bool on_host() { return true; }
  /// Bytes of it, all and free.
  virtual size_t memory_total();
  virtual size_t memory_available();
  Tensor tensor(DType dtype, Shape shape) { return Tensor(dtype, shape, memory()); }
  /// Between the host's memory and the backend's; done when they return.
  virtual void write(const View& to, const void* from);
  virtual void read(const ConstView& from, void* to);
  virtual void copy(void* to, const void* from, size_t bytes);
  /// Whether keys and values must be kept in the layout `rows`.
  virtual bool wants_rows() { return false; }

  /// Begins a step: what was uploaded for the one before is gone.
  virtual void begin_step() {}
  virtual Indices upload(std::span<const int32_t> numbers) { return numbers; }
  virtual Sequences upload(std::span<const SequenceRows> sequences) { return sequences; }
  /// Does what `body` does, which calls ops and nothing else. Under the same key those are the same ops with the same
  /// views, whatever the uploaded numbers are: a device may record and replay them. Key 0: not again.
  virtual void run_step(uint64_t key, const std::function<void()>& body);

  /// Whether matrices stay in e4m3 with block scales; else they must be multiplied out before they are packed.
  virtual bool keeps_blocks() const { return false; }
  virtual PackedMatrix do_pack(const PackMatrix& source) = 0;
  /// A matrix of pseudo-random values in [-scale, scale], for benchmarks.
  virtual PackedMatrix random_matrix(const RandomMatrix& matrix) = 0;

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
  /// Whether the device has what DeepSeek-V3's layers need: the three ops here, keys wider than values in
  /// paged_attention, and moe_route by sigmoid.
  virtual bool has_latent_attention() const { return false; }
  virtual void do_latent_input(const LatentInput& op);
  virtual void do_latent_query(const LatentQuery& op);
  virtual void do_swap_axes(const SwapAxes& op);
  virtual void do_moe_route(const MoeRoute& op) = 0;
  virtual void do_moe_group(const MoeGroup& op) = 0;
  virtual void do_moe_combine(const MoeCombine& op) = 0;
  virtual void do_vision_attention(const VisionAttention& op) = 0;
  virtual void do_add_position_grid(const AddPositionGrid& op) = 0;
  virtual void do_merge_patches(const MergePatches& op) = 0;
};

/// Packs weights for this backend's kernels; checks the blocks' shapes.
PackedMatrix pack(Backend& backend, const PackMatrix& source);

/// The plain loops: one thread, no intrinsics.
std::unique_ptr<Backend> make_ref_backend();

struct CudaOptions {
  int device = 0;
  int threads = 0;           // of the host, for its own work between ops; 0: one per processor
  int graph_rows_max = 256;  // steps of so many tokens at most are recorded and replayed; 0: none
};
/// Errors: unsupported (a build without CUDA, no driver, no such device, a device that is too old).
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);
/// The same kernels on the CPU, for tests of what they compute. Not in the program.
std::unique_ptr<Backend> make_emulated_cuda_backend(const CudaOptions& options);

struct CpuOptions {
  int threads = 0;  // 0: one per processor that this process may use
  std::string isa;  // "": the best that the processor has; or "avx512_bf16", "avx512", "avx2", "scalar"
};
/// Errors: unsupported (an instruction set that this processor or build lacks, by name).
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);

}  // namespace keye::ops
