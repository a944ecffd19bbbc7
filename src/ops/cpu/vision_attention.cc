#include <algorithm>
#include <cstring>

#include "ops/attention.h"
#include "ops/cpu/attention_tile.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"

namespace keye::ops {
namespace {

/// One page of keys and values of a segment, or one tile of its queries.
struct Piece {
  int32_t segment;
  int32_t first;  // patch
  int32_t count;
};

int64_t tiles_of(int64_t patches) { return (patches + kTileRows - 1) / kTileRows; }

/// One vision_attention on its way over the threads: first every page of every head is packed as a page of the cache
/// would be, then every tile of queries attends to its segment's pages.
class VisionRun {
 public:
  VisionRun(const VisionAttention& op, const AttentionKernels& kernels, const RowKernels& row_kernels)
      : op_(op), kernels_(kernels), row_kernels_(row_kernels), dim_(static_cast<int>(op.qkv.shape[3])) {
    for (size_t s = 0; s + 1 < op.segments.size(); ++s) {
      const int64_t patches = op.segments[s + 1] - op.segments[s];
      pages_ += pages_for(patches);
      tiles_ += tiles_of(patches);
    }
  }

  int64_t page_items() const { return pages_; }
  int64_t tile_items() const { return tiles_ * op_.heads; }

  size_t shared_bytes() const { return lists_bytes() + static_cast<size_t>(2 * op_.heads * pages_) * block_bytes(); }
  void use_shared(void* memory) {
    first_pages_ = static_cast<int64_t*>(memory);
    page_list_ = reinterpret_cast<Piece*>(first_pages_ + op_.segments.size());
    tile_list_ = page_list_ + pages_;
    keys_ = static_cast<std::byte*>(memory) + lists_bytes();
    values_ = keys_ + static_cast<size_t>(op_.heads * pages_) * block_bytes();
    Piece* page = page_list_;
    Piece* tile = tile_list_;
    for (size_t s = 0; s + 1 < op_.segments.size(); ++s) {
      const int32_t begin = op_.segments[s];
      const int32_t patches = op_.segments[s + 1] - begin;
      first_pages_[s] = page - page_list_;
      for (int32_t i = 0; i < patches; i += kPageTokens) {
        *page++ = {static_cast<int32_t>(s), begin + i, std::min(kPageTokens, patches - i)};
      }
      const auto tiles = static_cast<int>(tiles_of(patches));
      for (int i = 0; i < tiles; ++i) {
        const int first = row_of_block(patches, kTileRows, i);
        *tile++ = {static_cast<int32_t>(s), begin + first, row_of_block(patches, kTileRows, i + 1) - first};
      }
    }
  }

  static size_t page_scratch_bytes(const VisionAttention& op) {
    return static_cast<size_t>(2 * op.heads * op.qkv.shape[3]) * sizeof(float);
  }

  /// Packs a page of keys and values, for every head, and leaves the rotated queries in `out`, where the tile that
  /// replaces them with their results will find them.
  void pack_page(int64_t item, void* memory) const {
    const Piece& page = page_list_[item];
    auto* row = static_cast<float*>(memory);
    void* rounded = row + op_.heads * dim_;
    const auto block = [&](std::byte* blocks, int64_t head) {
      return blocks + static_cast<size_t>(head * pages_ + item) * block_bytes();
    };
    for (int i = 0; i < page.count; ++i) {
      const int64_t patch = page.first + i;
      load(patch, 0, row, out_head(patch, 0));
      const auto* keys = static_cast<const std::byte*>(load(patch, 1, row, rounded));
      for (int64_t head = 0; head < op_.heads; ++head, keys += head_bytes()) {
        write_key(op_.out.dtype, dim_, keys, block(keys_, head), i);
      }
      const auto* values = static_cast<const std::byte*>(load(patch, 2, row, rounded));
      for (int64_t head = 0; head < op_.heads; ++head, values += head_bytes()) {
        write_value(op_.out.dtype, dim_, values, block(values_, head), i);
      }
    }
    if (page.count == kPageTokens) return;
    for (int64_t head = 0; head < op_.heads; ++head) {
      clear_slots(plane(PlaneLayout::keys), block(keys_, head), page.count);
      clear_slots(plane(PlaneLayout::values), block(values_, head), page.count);
    }
  }

  void attend_tile(int64_t item, const TileScratch& scratch) const {
    const int64_t head = item / tiles_;
    const Piece& piece = tile_list_[item % tiles_];
    const auto segment = static_cast<size_t>(piece.segment);
    const int32_t keys = op_.segments[segment + 1] - op_.segments[segment];
    for (int r = 0; r < piece.count; ++r) {
      scratch.queries[r] = out_head(piece.first + r, head);
      scratch.limits[r] = keys;
    }
    pack_queries(kernels_, row_kernels_,
                 {op_.out.dtype, 1, piece.count, dim_, scratch.queries, scratch.row, scratch.q});
    const size_t offset = static_cast<size_t>(head * pages_ + first_pages_[segment]) * block_bytes();
    AttentionTile tile;
    tile.q = scratch.q;
    tile.rows = piece.count;
    tile.dim = dim_;
    tile.value_dim = dim_;
    tile.scale = scale_for_powers_of_two(op_.scale);
    tile.limits = scratch.limits;
    tile.keys = {.data = reinterpret_cast<const unsigned char*>(keys_ + offset), .page_bytes = block_bytes()};
    tile.values = {.data = reinterpret_cast<const unsigned char*>(values_ + offset), .page_bytes = block_bytes()};
    tile.last_page = static_cast<int>(pages_for(keys));
    tile.work = scratch.work;
    tile.state = scratch.state;
    kernels_.attend(tile);
    kernels_.finish(scratch.state, piece.count, dim_);
    for (int r = 0; r < piece.count; ++r) {
      const float* mix = scratch.state + static_cast<size_t>(r) * state_stride(dim_) + kStateMix;
      round_to(row_kernels_, op_.out.dtype, dim_, mix, out_head(piece.first + r, head));
    }
  }

 private:
  size_t head_bytes() const { return static_cast<size_t>(dim_) * dtype_bytes(op_.out.dtype); }
  size_t block_bytes() const { return kPageTokens * head_bytes(); }
  KvPlane plane(PlaneLayout layout) const { return {nullptr, op_.out.dtype, layout, 1, dim_}; }
  size_t lists_bytes() const {
    const size_t bytes = static_cast<size_t>(pages_ + tiles_) * sizeof(Piece) + op_.segments.size() * sizeof(int64_t);
    return (bytes + 63) / 64 * 64;
  }

  void* out_head(int64_t patch, int64_t head) const {
    return static_cast<std::byte*>(op_.out.data) + static_cast<size_t>(patch * op_.heads + head) * head_bytes();
  }

  /// All heads of a patch's q (0), k (1) or v (2), rotated unless they are v, in out's dtype: written to `to`, or where
  /// they are. `row` is scratch.
  const void* load(int64_t patch, int which, float* row, void* to) const {
    const int count = op_.heads * dim_;
    const size_t bytes = static_cast<size_t>(count) * dtype_bytes(op_.qkv.dtype);
    const auto* from = static_cast<const std::byte*>(op_.qkv.data) + static_cast<size_t>(patch * 3 + which) * bytes;
    if (which == 2 && op_.qkv.dtype == op_.out.dtype) return from;
    if (op_.qkv.dtype == DType::f32) {
      std::memcpy(row, from, bytes);
    } else {
      row_kernels_.widen_bf16(reinterpret_cast<const uint16_t*>(from), row, count);
    }
    for (int head = 0; head < op_.heads && which != 2; ++head) {
      kernels_.rotate(row + head * dim_, op_.cos.as<float>() + patch * (dim_ / 2),
                      op_.sin.as<float>() + patch * (dim_ / 2), dim_);
    }
    round_to(row_kernels_, op_.out.dtype, count, row, to);
    return to;
  }

  const VisionAttention& op_;
  const AttentionKernels& kernels_;
  const RowKernels& row_kernels_;
  int dim_;
  int64_t pages_ = 0;  // of one head
  int64_t tiles_ = 0;
  Piece* page_list_ = nullptr;
  Piece* tile_list_ = nullptr;
  int64_t* first_pages_ = nullptr;  // of each segment
  std::byte* keys_ = nullptr;       // [heads][pages] blocks
  std::byte* values_ = nullptr;
};

}  // namespace

void CpuBackend::do_vision_attention(const VisionAttention& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.out.dtype);
  if (kernels == nullptr) return RefBackend::do_vision_attention(op);
  VisionRun run(op, *kernels, *row_kernels(isa_));
  run.use_shared(shared_scratch(run.shared_bytes()));
  const auto dim = static_cast<int>(op.qkv.shape[3]);
  const auto tile_scratch = [&](int worker) {
    return TileScratch(scratch(worker, TileScratch(nullptr, dim).bytes), dim);
  };
  const size_t page_scratch = VisionRun::page_scratch_bytes(op);
  pool_.for_each(run.page_items(),
                 [&](int64_t item, int worker) { run.pack_page(item, scratch(worker, page_scratch)); });
  pool_.for_each(run.tile_items(), [&](int64_t item, int worker) { run.attend_tile(item, tile_scratch(worker)); });
}

}  // namespace keye::ops
