#include "ops/attention.h"

#include <algorithm>
#include <cstring>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"

namespace keye::ops {
namespace {

/// How one paged_attention is divided. None of it shows in the results.
struct AttentionPlan {
  int parts;        // of each key/value head's group of query heads
  int group;        // query heads in a part, at most
  int tile_tokens;  // tokens in a tile
  int64_t tiles;    // over all sequences
  int64_t units;    // chunks over all tiles
  bool split;       // each chunk is an item of its own; else each tile
};

int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
int64_t chunks_of(int64_t tokens) { return (pages_of(tokens) + kChunkPages - 1) / kChunkPages; }

/// Calls visit(sequence, first token, tokens) for every tile. Later tiles, which see more keys, come first.
template <class Visit>
void for_each_tile(const PagedAttention& op, int tile_tokens, Visit&& visit) {
  for (const SequenceRows& sequence : op.sequences) {
    for (int tile = (sequence.rows + tile_tokens - 1) / tile_tokens - 1; tile >= 0; --tile) {
      const int first = tile * tile_tokens;
      visit(sequence, first, std::min(tile_tokens, sequence.rows - first));
    }
  }
}

AttentionPlan plan_attention(const PagedAttention& op, int threads) {
  const int group = static_cast<int>(op.q.shape[1]) / op.k.heads;
  AttentionPlan plan{};
  plan.parts = (group + kTileRows - 1) / kTileRows;
  plan.group = (group + plan.parts - 1) / plan.parts;
  plan.tile_tokens = kTileRows / plan.group;
  for_each_tile(op, plan.tile_tokens, [&](const SequenceRows& sequence, int first, int tokens) {
    ++plan.tiles;
    plan.units += chunks_of(int64_t{sequence.context} + first + tokens);
  });
  // Few tiles leave threads idle at the end; chunks are smaller, but their states cost memory and a second round.
  constexpr int kItemsPerThread = 16;
  plan.split =
      threads > 1 && plan.units > plan.tiles && plan.tiles * op.k.heads * plan.parts < kItemsPerThread * threads;
  return plan;
}

struct Tile {
  const SequenceRows* sequence;
  int first;  // token of the sequence's rows
  int tokens;
  int64_t unit;  // its first chunk's number among all
  int64_t units;
};

/// One paged_attention on its way over the threads.
class PagedRun {
 public:
  PagedRun(const PagedAttention& op, const AttentionPlan& plan, const AttentionKernels& kernels,
           const RowKernels& row_kernels, void* shared)
      : op_(op), plan_(plan), kernels_(kernels), row_kernels_(row_kernels), dim_(static_cast<int>(op.q.shape[2])) {
    tiles_ = static_cast<Tile*>(shared);
    unit_tiles_ = reinterpret_cast<int32_t*>(tiles_ + plan.tiles);
    states_ = reinterpret_cast<float*>(static_cast<std::byte*>(shared) + lists_bytes(plan));
    int64_t tile = 0;
    int64_t unit = 0;
    for_each_tile(op, plan.tile_tokens, [&](const SequenceRows& sequence, int first, int tokens) {
      const int64_t units = chunks_of(int64_t{sequence.context} + first + tokens);
      tiles_[tile] = {&sequence, first, tokens, unit, units};
      std::fill_n(unit_tiles_ + unit, units, static_cast<int32_t>(tile));
      unit += units;
      ++tile;
    });
  }

  static size_t shared_bytes(const AttentionPlan& plan, int kv_heads, int dim) {
    const size_t states = plan.split ? static_cast<size_t>(plan.units * kv_heads * plan.parts) : 0;
    return lists_bytes(plan) + states * state_floats(plan, dim) * sizeof(float);
  }

  int64_t heads() const { return int64_t{op_.k.heads} * plan_.parts; }

  /// A whole tile, for one head part.
  void attend_tile(int64_t tile, int64_t head, const TileScratch& scratch) const {
    const Tile& t = tiles_[tile];
    AttentionTile work = prepare(t, head, scratch);
    work.last_page = static_cast<int>(pages_of(int64_t{t.sequence->context} + t.first + t.tokens));
    work.state = scratch.state;
    kernels_.attend(work);
    write(t, head, scratch.state);
  }

  /// One chunk of a tile; its state is kept.
  void attend_unit(int64_t unit, int64_t head, const TileScratch& scratch) const {
    const Tile& t = tiles_[unit_tiles_[unit]];
    AttentionTile work = prepare(t, head, scratch);
    const auto pages = static_cast<int>(pages_of(int64_t{t.sequence->context} + t.first + t.tokens));
    work.first_page = static_cast<int>(unit - t.unit) * kChunkPages;
    work.last_page = std::min(pages, work.first_page + kChunkPages);
    work.state = state(unit, head);
    kernels_.attend(work);
  }

  /// The chunks of a tile, in order.
  void combine_tile(int64_t tile, int64_t head) const {
    const Tile& t = tiles_[tile];
    float* first = state(t.unit, head);
    for (int64_t i = 1; i < t.units; ++i) {
      kernels_.combine(first, state(t.unit + i, head), t.tokens * heads_of(head).count, dim_,
                       scale_for_powers_of_two(op_.scale));
    }
    write(t, head, first);
  }

 private:
  /// The query heads of a head part.
  struct Heads {
    int kv_head;
    int first;
    int count;
  };

  static size_t lists_bytes(const AttentionPlan& plan) {
    const size_t bytes =
        static_cast<size_t>(plan.tiles) * sizeof(Tile) + static_cast<size_t>(plan.units) * sizeof(int32_t);
    return (bytes + 63) / 64 * 64;
  }
  static size_t state_floats(const AttentionPlan& plan, int dim) {
    return static_cast<size_t>(plan.tile_tokens * plan.group) * state_stride(dim);
  }
  float* state(int64_t unit, int64_t head) const {
    return states_ + static_cast<size_t>(unit * heads() + head) * state_floats(plan_, dim_);
  }

  Heads heads_of(int64_t head) const {
    const int group = static_cast<int>(op_.q.shape[1]) / op_.k.heads;
    const int kv_head = static_cast<int>(head) / plan_.parts;
    const int begin = static_cast<int>(head) % plan_.parts * plan_.group;
    return {kv_head, kv_head * group + begin, std::min(plan_.group, group - begin)};
  }

  AttentionTile prepare(const Tile& t, int64_t head, const TileScratch& scratch) const {
    const Heads heads = heads_of(head);
    const auto element = static_cast<int64_t>(dtype_bytes(op_.q.dtype));
    int rows = 0;
    for (int token = 0; token < t.tokens; ++token) {
      const int64_t row = t.sequence->first_row + t.first + token;
      for (int i = 0; i < heads.count; ++i, ++rows) {
        scratch.queries[rows] =
            static_cast<const std::byte*>(op_.q.data) + (row * op_.q.shape[1] + heads.first + i) * dim_ * element;
        scratch.limits[rows] = t.sequence->context + t.first + token + 1;
        scratch.selection[rows] = op_.selection == nullptr ? nullptr : op_.selection + row * op_.selection_words;
      }
    }
    pack_queries(kernels_, row_kernels_, op_.q.dtype, rows, dim_, scratch);
    AttentionTile tile;
    tile.q = scratch.q;
    tile.rows = rows;
    tile.dim = dim_;
    tile.scale = scale_for_powers_of_two(op_.scale);
    tile.limits = scratch.limits;
    tile.selection = op_.selection == nullptr ? nullptr : scratch.selection;
    tile.keys = reinterpret_cast<const unsigned char*>(op_.k.block(0, heads.kv_head));
    tile.values = reinterpret_cast<const unsigned char*>(op_.v.block(0, heads.kv_head));
    tile.page_bytes = op_.k.page_bytes();
    tile.pages = t.sequence->pages.data();
    tile.work = scratch.work;
    return tile;
  }

  void write(const Tile& t, int64_t head, float* states) const {
    const Heads heads = heads_of(head);
    const auto element = static_cast<int64_t>(dtype_bytes(op_.out.dtype));
    kernels_.finish(states, t.tokens * heads.count, dim_);
    for (int token = 0; token < t.tokens; ++token) {
      const int64_t row = t.sequence->first_row + t.first + token;
      for (int i = 0; i < heads.count; ++i, states += state_stride(dim_)) {
        std::byte* out =
            static_cast<std::byte*>(op_.out.data) + (row * op_.q.shape[1] + heads.first + i) * dim_ * element;
        write_head(row_kernels_, op_.out.dtype, dim_, states + kStateMix, out);
      }
    }
  }

  const PagedAttention& op_;
  const AttentionPlan& plan_;
  const AttentionKernels& kernels_;
  const RowKernels& row_kernels_;
  int dim_;
  Tile* tiles_;
  int32_t* unit_tiles_;
  float* states_;
};

/// Tokens [begin, end) of a step lie in one page.
struct PageRun {
  int32_t begin;
  int32_t end;
};

/// The heads of one kv head's group, for the tokens of a run. A page's head is written by one thread alone, in order of
/// the tokens, so that clearing it at slot 0 cannot race with other writes.
void write_run(const AttentionInput& op, const AttentionKernels& kernels, const RowKernels& row_kernels, PageRun run,
               int kv_head, float* x, void* rounded) {
  const int h = static_cast<int>(op.q.shape[1]);
  const int d = static_cast<int>(op.q.shape[2]);
  const int g = op.k.heads;
  const DType dtype = op.q.dtype;
  const auto element = static_cast<int64_t>(dtype_bytes(dtype));
  for (int64_t t = run.begin; t < run.end; ++t) {
    const float* cos = op.cos.as<float>() + t * (d / 2);
    const float* sin = op.sin.as<float>() + t * (d / 2);
    const float* token = op.qkv.as<float>() + t * (h + 2 * g) * d;
    const auto normalise_rotate = [&](const float* head, const ConstView& weight) {
      row_kernels.rms_norm(head, weight.as<float>(), op.eps, d, x, nullptr);
      kernels.rotate(x, cos, sin, d);
    };
    for (int i = kv_head * (h / g); i < (kv_head + 1) * (h / g); ++i) {
      normalise_rotate(token + static_cast<ptrdiff_t>(i) * d, op.q_norm);
      write_head(row_kernels, dtype, d, x, static_cast<std::byte*>(op.q.data) + (t * h + i) * d * element);
    }
    const int32_t page = op.slots[static_cast<size_t>(t)] / kPageTokens;
    const int slot = op.slots[static_cast<size_t>(t)] % kPageTokens;
    std::byte* keys = op.k.block(page, kv_head);
    std::byte* values = op.v.block(page, kv_head);
    if (slot == 0) {
      std::memset(keys, 0, op.k.head_bytes());
      std::memset(values, 0, op.v.head_bytes());
    }
    normalise_rotate(token + static_cast<ptrdiff_t>(h + kv_head) * d, op.k_norm);
    write_head(row_kernels, dtype, d, x, rounded);
    write_key(dtype, d, rounded, keys, slot);
    write_head(row_kernels, dtype, d, token + static_cast<ptrdiff_t>(h + g + kv_head) * d, rounded);
    write_value(dtype, d, rounded, values, slot);
  }
}

}  // namespace

void CpuBackend::do_attention_input(const AttentionInput& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.q.dtype);
  if (kernels == nullptr) return RefBackend::do_attention_input(op);
  const auto n = static_cast<int32_t>(op.q.shape[0]);
  auto* runs = static_cast<PageRun*>(shared_scratch(static_cast<size_t>(n) * sizeof(PageRun)));
  int64_t count = 0;
  for (int32_t t = 0; t < n; ++t) {
    const auto page = [&](int32_t token) { return op.slots[static_cast<size_t>(token)] / kPageTokens; };
    if (t == 0 || page(t) != page(t - 1)) runs[count++] = {t, t};
    runs[count - 1].end = t + 1;
  }
  const int g = op.k.heads;
  const auto d = static_cast<size_t>(op.q.shape[2]);
  const auto write = [&](int64_t item, int worker) {
    auto* x = static_cast<float*>(scratch(worker, d * 2 * sizeof(float)));
    write_run(op, *kernels, *row_kernels(isa_), runs[item / g], static_cast<int>(item % g), x, x + d);
  };
  if (op.qkv.bytes() <= kRangeBytes) {
    for (int64_t item = 0; item < count * g; ++item) write(item, 0);
  } else {
    pool_.for_each(count * g, write);
  }
}

void CpuBackend::do_paged_attention(const PagedAttention& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.q.dtype);
  if (kernels == nullptr) return RefBackend::do_paged_attention(op);
  const auto dim = static_cast<int>(op.q.shape[2]);
  const AttentionPlan plan = plan_attention(op, pool_.size());
  const PagedRun run(op, plan, *kernels, *row_kernels(isa_),
                     shared_scratch(PagedRun::shared_bytes(plan, op.k.heads, dim)));
  const auto tile_scratch = [&](int worker) {
    return TileScratch(scratch(worker, TileScratch(nullptr, dim).bytes), dim);
  };
  // One head's tiles follow each other: they read the same keys and values.
  if (plan.split) {
    pool_.for_each(plan.units * run.heads(), [&](int64_t item, int worker) {
      run.attend_unit(item % plan.units, item / plan.units, tile_scratch(worker));
    });
    pool_.for_each(plan.tiles * run.heads(),
                   [&](int64_t item, int) { run.combine_tile(item % plan.tiles, item / plan.tiles); });
  } else {
    pool_.for_each(plan.tiles * run.heads(), [&](int64_t item, int worker) {
      run.attend_tile(item % plan.tiles, item / plan.tiles, tile_scratch(worker));
    });
  }
}

}  // namespace keye::ops
