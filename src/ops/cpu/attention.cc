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
  int group;        // query heads of a key/value head in a tile, at most
  int parts;        // so many make up all its query heads
  int kv_heads;     // key/value heads in a tile, at most: neighbours in memory
  int tile_tokens;  // tokens in a tile
  int64_t tiles;    // over all sequences
  int64_t units;    // chunks over all tiles
  bool split;       // each chunk is an item of its own; else each tile

  int64_t head_sets(int all_kv_heads) const { return int64_t{(all_kv_heads + kv_heads - 1) / kv_heads} * parts; }
};

/// How many keys the last row of a tile may see.
int64_t keys_of(const PagedAttention& op, const SequenceRows& sequence, int64_t rows) {
  return op.chosen.empty() ? sequence.context + rows : op.chosen.shape[1];
}

int64_t chunks_of(int64_t tokens) { return (pages_for(tokens) + kChunkPages - 1) / kChunkPages; }

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
  // Few items leave threads idle at the end.
  constexpr int kItemsPerThread = 4;
  const int group = static_cast<int>(op.q.shape[1]) / op.k.heads;
  AttentionPlan plan{};
  plan.parts = (group + kTileRows - 1) / kTileRows;
  plan.group = (group + plan.parts - 1) / plan.parts;
  plan.kv_heads = 1;
  plan.tile_tokens = op.chosen.empty() ? kTileRows / plan.group : 1;  // each token has keys of its own
  int tokens_max = 0;
  for_each_tile(op, plan.tile_tokens, [&](const SequenceRows& sequence, int first, int tokens) {
    ++plan.tiles;
    plan.units += chunks_of(keys_of(op, sequence, first + tokens));
    tokens_max = std::max(tokens_max, tokens);
  });
  plan.split = threads > 1 && plan.units > plan.tiles &&
               plan.tiles * plan.head_sets(op.k.heads) < int64_t{4} * kItemsPerThread * threads;
  // Where tiles have room for several heads, memory is read in longer runs.
  plan.tile_tokens = std::max(tokens_max, 1);
  const int64_t pieces = plan.split ? plan.units : plan.tiles;
  while (plan.parts == 1 && op.k.heads % (2 * plan.kv_heads) == 0 &&
         2 * plan.kv_heads * plan.group * plan.tile_tokens <= kTileRows &&
         (threads == 1 || pieces * plan.head_sets(op.k.heads) >= int64_t{2} * kItemsPerThread * threads)) {
    plan.kv_heads *= 2;
  }
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
      : op_(op), plan_(plan), kernels_(kernels), row_kernels_(row_kernels) {
    tiles_ = static_cast<Tile*>(shared);
    unit_tiles_ = reinterpret_cast<int32_t*>(tiles_ + plan.tiles);
    states_ = reinterpret_cast<float*>(static_cast<std::byte*>(shared) + lists_bytes(plan));
    int64_t tile = 0;
    int64_t unit = 0;
    for_each_tile(op, plan.tile_tokens, [&](const SequenceRows& sequence, int first, int tokens) {
      const int64_t units = chunks_of(keys_of(op, sequence, first + tokens));
      tiles_[tile] = {&sequence, first, tokens, unit, units};
      std::fill_n(unit_tiles_ + unit, units, static_cast<int32_t>(tile));
      unit += units;
      ++tile;
    });
  }

  static size_t shared_bytes(const AttentionPlan& plan, int kv_heads, int value_dim) {
    const size_t states = plan.split ? static_cast<size_t>(plan.units * plan.head_sets(kv_heads)) : 0;
    return lists_bytes(plan) + states * state_floats(plan, value_dim) * sizeof(float);
  }

  int64_t head_sets() const { return plan_.head_sets(op_.k.heads); }

  /// A whole tile, for one set of heads.
  void attend_tile(int64_t tile, int64_t head, const TileScratch& scratch) const {
    const Tile& t = tiles_[tile];
    AttentionTile work = prepare(t, head, scratch);
    work.last_page = last_page(work, t);
    work.state = scratch.state;
    kernels_.attend(work);
    write(t, head, scratch.state);
  }

  /// One chunk of a tile; its state is kept.
  void attend_unit(int64_t unit, int64_t head, const TileScratch& scratch) const {
    const Tile& t = tiles_[unit_tiles_[unit]];
    AttentionTile work = prepare(t, head, scratch);
    work.first_page = static_cast<int>(unit - t.unit) * kChunkPages;
    work.last_page = std::min(last_page(work, t), work.first_page + kChunkPages);
    work.state = state(unit, head);
    kernels_.attend(work);
  }

  /// The chunks of a tile, in order.
  void combine_tile(int64_t tile, int64_t head) const {
    const Tile& t = tiles_[tile];
    float* first = state(t.unit, head);
    for (int64_t i = 1; i < t.units; ++i) {
      kernels_.combine(first, state(t.unit + i, head), t.tokens * heads_of(head).rows(), value_dim_,
                       scale_for_powers_of_two(op_.scale));
    }
    write(t, head, first);
  }

 private:
  /// The heads of a tile: of kv_count key/value heads, query heads [begin, begin + count) of those that share each.
  struct Heads {
    int kv_first;
    int kv_count;
    int begin;
    int count;
    int rows() const { return kv_count * count; }  // for each token
  };

  static size_t lists_bytes(const AttentionPlan& plan) {
    const size_t bytes =
        static_cast<size_t>(plan.tiles) * sizeof(Tile) + static_cast<size_t>(plan.units) * sizeof(int32_t);
    return (bytes + 63) / 64 * 64;
  }
  static size_t state_floats(const AttentionPlan& plan, int value_dim) {
    return static_cast<size_t>(plan.tile_tokens * plan.group * plan.kv_heads) * state_stride(value_dim);
  }
  float* state(int64_t unit, int64_t head) const {
    return states_ + static_cast<size_t>(unit * head_sets() + head) * state_floats(plan_, value_dim_);
  }

  Heads heads_of(int64_t set) const {
    const int begin = static_cast<int>(set) % plan_.parts * plan_.group;
    const int kv_first = static_cast<int>(set) / plan_.parts * plan_.kv_heads;
    return {kv_first, std::min(plan_.kv_heads, op_.k.heads - kv_first), begin, std::min(plan_.group, group() - begin)};
  }
  int group() const { return static_cast<int>(op_.q.shape[1]) / op_.k.heads; }

  static int last_page(const AttentionTile& work, const Tile& t) {
    // The last row sees the most.
    const int64_t keys = work.chosen != nullptr ? work.limits[0] : int64_t{t.sequence->context} + t.first + t.tokens;
    return static_cast<int>(pages_for(keys));
  }

  static TilePlane tile_plane(const KvPlane& plane, int first_head) {
    Elements elements = Elements::packed;
    if (plane.layout == PlaneLayout::rows) {
      elements = plane.dtype == DType::i8        ? Elements::i8
                 : plane.dtype == DType::f8_e4m3 ? Elements::f8
                                                 : Elements::same;
    }
    return {reinterpret_cast<const unsigned char*>(plane.block(0, first_head)), plane.page_bytes(), plane.head_bytes(),
            plane.row_bytes(), elements};
  }

  /// Calls visit(row of the tile, row of the step, query head) for every row of a tile.
  template <class Visit>
  void for_each_row(const Tile& t, const Heads& heads, Visit&& visit) const {
    int r = 0;
    for (int kv = 0; kv < heads.kv_count; ++kv) {
      for (int token = 0; token < t.tokens; ++token) {
        for (int i = 0; i < heads.count; ++i, ++r) {
          visit(r, int64_t{t.sequence->first_row} + t.first + token, (heads.kv_first + kv) * group() + heads.begin + i);
        }
      }
    }
  }

  /// Where a row's head lies in q or, of another width, in out, in bytes.
  int64_t offset(int64_t row, int64_t head, int dim) const {
    return (row * op_.q.shape[1] + head) * dim * static_cast<int64_t>(dtype_bytes(op_.q.dtype));
  }

  AttentionTile prepare(const Tile& t, int64_t set, const TileScratch& scratch) const {
    const Heads heads = heads_of(set);
    AttentionTile tile;
    int32_t choice = 0;
    if (!op_.chosen.empty()) {
      const int64_t most = op_.chosen.shape[1];
      tile.chosen = op_.chosen.as<int32_t>() + (t.sequence->first_row + t.first) * most;
      const auto index = static_cast<int32_t>(t.sequence->context + t.first);
      choice = static_cast<int32_t>(std::partition_point(tile.chosen, tile.chosen + std::min<int64_t>(most, index + 1),
                                                         [](int32_t token) { return token >= 0; }) -
                                    tile.chosen);
    }
    for_each_row(t, heads, [&](int r, int64_t row, int64_t head) {
      scratch.queries[r] = static_cast<const std::byte*>(op_.q.data) + offset(row, head, dim_);
      scratch.limits[r] =
          tile.chosen != nullptr ? choice : static_cast<int32_t>(t.sequence->context + row - t.sequence->first_row + 1);
    });
    tile.q = scratch.q;
    tile.heads = heads.kv_count;
    tile.rows = t.tokens * heads.count;
    tile.dim = dim_;
    tile.value_dim = value_dim_;
    tile.scale = scale_for_powers_of_two(op_.scale);
    tile.limits = scratch.limits;
    tile.keys = tile_plane(op_.k, heads.kv_first);
    tile.values = tile_plane(op_.v, heads.kv_first);
    tile.pages = t.sequence->pages.data();
    tile.work = scratch.work;
    tile.packed = scratch.packed;
    pack_queries(kernels_, row_kernels_,
                 {op_.q.dtype, tile.heads, tile.rows, dim_, scratch.queries, scratch.row, scratch.q});
    return tile;
  }

  void write(const Tile& t, int64_t set, float* states) const {
    const Heads heads = heads_of(set);
    kernels_.finish(states, t.tokens * heads.rows(), value_dim_);
    for_each_row(t, heads, [&](int r, int64_t row, int64_t head) {
      round_to(row_kernels_, op_.out.dtype, value_dim_,
               states + static_cast<size_t>(r) * state_stride(value_dim_) + kStateMix,
               static_cast<std::byte*>(op_.out.data) + offset(row, head, value_dim_));
    });
  }

  const PagedAttention& op_;
  const AttentionPlan& plan_;
  const AttentionKernels& kernels_;
  const RowKernels& row_kernels_;
  int dim_ = static_cast<int>(op_.q.shape[2]);
  int value_dim_ = op_.v.dim;
  Tile* tiles_;
  int32_t* unit_tiles_;
  float* states_;
};

/// Some neighbouring tokens [begin, end) of one page, and the slots [clear_from, kPageTokens) to clear with them: those
/// after all new tokens of the page, by the block of the token in slot 0. So no two threads write the same bytes.
struct TokenBlock {
  int32_t begin;
  int32_t end;
  int32_t clear_from;
};
constexpr int32_t kBlockTokens = 16;

/// Cuts a step's tokens into blocks; returns how many.
int64_t cut_tokens(std::span<const int32_t> slots, TokenBlock* blocks) {
  const auto n = static_cast<int32_t>(slots.size());
  const auto page = [&](int32_t token) { return slots[static_cast<size_t>(token)] / kPageTokens; };
  int64_t count = 0;
  for (int32_t begin = 0, end = 0; begin < n; begin = end) {
    while (end < n && page(end) == page(begin)) ++end;
    const bool new_page = slots[static_cast<size_t>(begin)] % kPageTokens == 0;
    for (int32_t t = begin; t < end; t += kBlockTokens) {
      blocks[count++] = {t, std::min(t + kBlockTokens, end), new_page && t == begin ? end - begin : kPageTokens};
    }
  }
  return count;
}

void write_tokens(const AttentionInput& op, const AttentionKernels& kernels, const RowKernels& row_kernels,
                  const TokenBlock& block) {
  const int h = static_cast<int>(op.q.shape[1]);
  const int d = static_cast<int>(op.q.shape[2]);
  const int g = op.k.heads;
  const DType dtype = op.q.dtype;
  const auto head_bytes = static_cast<ptrdiff_t>(d) * static_cast<ptrdiff_t>(dtype_bytes(dtype));
  alignas(64) float x[kHeadDimMax];
  alignas(64) float rounded[kHeadDimMax];
  for (int64_t t = block.begin; t < block.end; ++t) {
    const float* head = op.qkv.as<float>() + t * (h + 2 * g) * d;
    const auto normalise_rotate = [&](const ConstView& weight) {
      row_kernels.rms_norm(head, weight.as<float>(), op.eps, d, x, nullptr);
      kernels.rotate(x, op.cos.as<float>() + t * (d / 2), op.sin.as<float>() + t * (d / 2), d);
    };
    const int32_t page = op.slots[static_cast<size_t>(t)] / kPageTokens;
    const int slot = op.slots[static_cast<size_t>(t)] % kPageTokens;
    for (int i = 0; i < h; ++i, head += d) {
      normalise_rotate(op.q_norm);
      round_to(row_kernels, dtype, d, x, static_cast<std::byte*>(op.q.data) + (t * h + i) * head_bytes);
    }
    for (int i = 0; i < g; ++i, head += d) {
      normalise_rotate(op.k_norm);
      write_head(row_kernels, op.k, x, op.k.block(page, i), slot, rounded);
    }
    for (int i = 0; i < g; ++i, head += d) write_head(row_kernels, op.v, head, op.v.block(page, i), slot, rounded);
  }
  if (block.clear_from == kPageTokens) return;
  const int32_t page = op.slots[static_cast<size_t>(block.begin)] / kPageTokens;
  for (int i = 0; i < g; ++i) {
    clear_slots(op.k, op.k.block(page, i), block.clear_from);
    clear_slots(op.v, op.v.block(page, i), block.clear_from);
  }
}

}  // namespace

void CpuBackend::do_attention_input(const AttentionInput& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.q.dtype);
  if (kernels == nullptr) return RefBackend::do_attention_input(op);
  auto* blocks = static_cast<TokenBlock*>(shared_scratch(op.slots.size() * sizeof(TokenBlock)));
  const int64_t count = cut_tokens(op.slots, blocks);
  const auto write = [&](int64_t item, int) { write_tokens(op, *kernels, *row_kernels(isa_), blocks[item]); };
  if (static_cast<int64_t>(op.qkv.bytes()) <= kRangeBytes) {
    for (int64_t item = 0; item < count; ++item) write(item, 0);
  } else {
    pool_.for_each(count, write);
  }
}

void CpuBackend::do_paged_attention(const PagedAttention& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.q.dtype);
  if (kernels == nullptr) return RefBackend::do_paged_attention(op);
  const auto dim = static_cast<int>(op.q.shape[2]);
  const AttentionPlan plan = plan_attention(op, pool_.size());
  const PagedRun run(op, plan, *kernels, *row_kernels(isa_),
                     shared_scratch(PagedRun::shared_bytes(plan, op.k.heads, op.v.dim)));
  const auto tile_scratch = [&](int worker) {
    return TileScratch(scratch(worker, TileScratch(nullptr, dim).bytes), dim);
  };
  // One head's tiles follow each other: they read the same keys and values.
  if (plan.split) {
    pool_.for_each(plan.units * run.head_sets(), [&](int64_t item, int worker) {
      run.attend_unit(item % plan.units, item / plan.units, tile_scratch(worker));
    });
    pool_.for_each(plan.tiles * run.head_sets(),
                   [&](int64_t item, int) { run.combine_tile(item % plan.tiles, item / plan.tiles); });
  } else {
    pool_.for_each(plan.tiles * run.head_sets(), [&](int64_t item, int worker) {
      run.attend_tile(item % plan.tiles, item / plan.tiles, tile_scratch(worker));
    });
  }
}

}  // namespace keye::ops
