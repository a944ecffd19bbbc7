// The CUDA backend: ops as kernels on one stream of one device. Results have the same bits for a row whatever else is
// in the batch, as on the CPU; between the two devices they differ by rounding.
#pragma once

#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm_kernels.h"

namespace keye::ops::cuda {

/// The device's memory.
class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(Stream stream) : stream_(stream) {}
  void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) override;

 private:
  Stream stream_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(DeviceInfo info, const CudaOptions& options);
  ~CudaBackend() override;

  std::string_view name() const override { return name_; }
  void for_each(int64_t items, const std::function<void(int64_t item, int worker)>& body) override {
    pool_.for_each(items, body);
  }
  int workers() const override { return pool_.size(); }
  Memory& memory() override { return memory_; }
  bool on_host() override { return false; }
  size_t memory_total() override { return info_.memory_bytes; }
  size_t memory_available() override { return device_free_bytes(); }
  void write(const View& to, const void* from) override;
  void read(const ConstView& from, void* to) override;
  void copy(void* to, const void* from, size_t bytes) override;
  bool wants_rows() override { return true; }

  void begin_step() override;
  Indices upload(std::span<const int32_t> numbers) override;
  Sequences upload(std::span<const SequenceRows> sequences) override;
  void run_step(uint64_t key, const std::function<void()>& body) override;

  PackedMatrix do_pack(const PackMatrix& source) override;
  PackedMatrix random_matrix(const RandomMatrix& matrix) override;
  void do_embed(const Embed& op) override;
  void do_copy_rows(const CopyRows& op) override;
  void do_convert(const Convert& op) override;
  void do_linear(const Linear& op) override;
  void do_grouped_linear(const GroupedLinear& op) override;
  void do_rms_norm(const RmsNorm& op) override;
  void do_layer_norm(const LayerNorm& op) override;
  void do_rope_table(const RopeTable& op) override;
  void do_attention_input(const AttentionInput& op) override;
  void do_paged_attention(const PagedAttention& op) override;
  void do_indexer_input(const IndexerInput& op) override;
  void do_sparse_select(const SparseSelect& op) override;
  void do_moe_route(const MoeRoute& op) override;
  void do_moe_group(const MoeGroup& op) override;
  void do_moe_combine(const MoeCombine& op) override;
  void do_vision_attention(const VisionAttention& op) override;
  void do_add_position_grid(const AddPositionGrid& op) override;
  void do_merge_patches(const MergePatches& op) override;

 private:
  /// A step's numbers on their way: packed into page-locked memory, sent in one copy. Two take turns, so that one can
  /// be filled while the device still reads the other.
  struct Staging {
    std::byte* data = nullptr;
    std::unique_ptr<Event> sent;
  };

  /// Room for `bytes` in the staging and, at the same offset, in the device's copy of it.
  size_t reserve(size_t bytes);
  void send();
  const int32_t* on_device(const Indices& indices);
  const DeviceSequences& on_device(const Sequences& sequences);
  /// Scratch of one op; ops on one stream run one after another, so all share it.
  void* workspace(size_t bytes);
  /// The groups' matrices as a table of pointers in the device's memory.
  const void* const* table_of(std::span<const PackedMatrix> groups);
  PackedMatrix allocate(int64_t outputs, int64_t inputs, bool gated, DType dtype);
  void multiply(const GemmArguments& arguments);
  const void* padded_rows(const ConstView& x, int64_t stride);

  DeviceInfo info_;
  int graph_rows_max_;
  Stream stream_;
  DeviceMemory memory_;
  ThreadPool pool_;
  std::string name_;

  /// Large writes go through these, copied by all threads.
  std::array<Staging, 2> passage_;
  std::array<Staging, 2> staging_;
  size_t filling_ = 0;          // which of the two
  size_t used_ = 0, sent_ = 0;  // bytes of it
  std::byte* arena_ = nullptr;  // the device's copy
  uint64_t layout_ = 0;         // of what was uploaded since begin_step: sizes, not values
  int64_t step_rows_ = 0;       // tokens of the step, as uploaded sequences tell
  std::deque<DeviceSequences> sequences_;
  Buffer workspace_;

  struct Recorded {
    bool seen = false;
    std::unique_ptr<Graph> graph;
  };
  std::unordered_map<uint64_t, Recorded> graphs_;
  struct Table {
    std::vector<const void*> pointers;
    Buffer on_device;
  };
  std::unordered_map<const PackedMatrix*, Table> tables_;
};

}  // namespace keye::ops::cuda
