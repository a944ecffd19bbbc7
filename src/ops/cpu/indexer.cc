#include "ops/indexer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"
#include "ops/quantize_row.h"

namespace keye::ops {
namespace {

/// Consecutive rows of one sequence that are scored together, so that a page of keys is read once for all of them.
constexpr int kScoreRows = 8;
struct Tile {
  const SequenceRows* sequence;
  int32_t first;  // row of the sequence
  int32_t rows;

  int64_t step_row(int r) const { return int64_t{sequence->first_row} + first + r; }
  int64_t length(int r) const { return int64_t{sequence->context} + first + r + 1; }
  int64_t pages() const { return pages_for(length(rows - 1)); }
};

struct Cut {
  int32_t threshold;  // all above it are kept
  int64_t ties;       // and so many of those that equal it
};

/// Where to cut so that `kept` of some more numbers stay, so many of which are `floor` or above: by halves, for
/// comparing a few thousand numbers with one takes less time than sorting them.
Cut find_cut(const AttentionKernels& kernels, std::span<const int32_t> orders, int64_t kept, int32_t floor) {
  int64_t low = int64_t{floor} - 1;  // at least `kept` are above
  int64_t high = INT32_MAX;          // fewer are
  int64_t above_high = 0;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const int64_t above =
        kernels.count_above(orders.data(), static_cast<int64_t>(orders.size()), static_cast<int32_t>(middle));
    if (above == kept) return {static_cast<int32_t>(middle), 0};
    if (above > kept) {
      low = middle;
    } else {
      high = middle;
      above_high = above;
    }
  }
  return {static_cast<int32_t>(high), kept - above_high};
}

/// The best `topk` of a row's keys so far, among some others: keys come in the order of their indices, and of equal
/// ones the first stay, so a later key must be above the worst of `topk` that are held.
class Candidates {
 public:
  /// Room for twice as many as are kept, so that few cuts are needed.
  static int64_t capacity(int64_t topk) { return 2 * topk + kPageTokens; }

  Candidates() = default;
  /// Memory for capacity(topk) numbers each.
  Candidates(int32_t* orders, int32_t* indices, int64_t topk) : orders_(orders), indices_(indices), topk_(topk) {}

  void take(const AttentionKernels& kernels, const float* scores, int count, int32_t first) {
    count_ += kernels.take(scores, count, threshold_, first, orders_ + count_, indices_ + count_);
    if (count_ + kPageTokens > capacity(topk_)) cut(kernels);
  }
  void take_all(const AttentionKernels& kernels, std::span<const int32_t> orders, std::span<const int32_t> indices) {
    std::copy(orders.begin(), orders.end(), orders_ + count_);
    std::copy(indices.begin(), indices.end(), indices_ + count_);
    count_ += static_cast<int64_t>(orders.size());
    cut(kernels);
  }
  /// Drops all but the best `topk`.
  void cut(const AttentionKernels& kernels) {
    if (count_ <= topk_) return;
    const Cut cut = find_cut(kernels, orders(), topk_, threshold_);
    int64_t kept = 0;
    int64_t ties = cut.ties;
    for (int64_t i = 0; i < count_; ++i) {  // without branches: which are kept cannot be guessed
      const int32_t order = orders_[i];
      const int64_t tie = static_cast<int64_t>(order == cut.threshold) & static_cast<int64_t>(ties > 0);
      orders_[kept] = order;
      indices_[kept] = indices_[i];
      kept += static_cast<int64_t>(order > cut.threshold) | tie;
      ties -= tie;
    }
    count_ = kept;
    threshold_ = cut.threshold;
  }
  std::span<const int32_t> orders() const { return {orders_, static_cast<size_t>(count_)}; }
  std::span<const int32_t> indices() const { return {indices_, static_cast<size_t>(count_)}; }

 private:
  int32_t* orders_ = nullptr;
  int32_t* indices_ = nullptr;
  int64_t topk_ = 0;
  int64_t count_ = 0;
  int32_t threshold_ = kBelowAll;
};

/// One sparse_select on its way over the threads. A tile's keys are cut into pieces where there are too few tiles for
/// the threads; what each piece keeps is cut again, so it does not show in the result how many there were.
class SelectRun {
 public:
  SelectRun(const SparseSelect& op, const AttentionKernels& kernels, const RowKernels& row_kernels, int threads)
      : op_(op),
        kernels_(kernels),
        row_kernels_(row_kernels),
        heads_(static_cast<int>(op.q.shape[1])),
        dim_(static_cast<int>(op.q.shape[2])),
        topk_(op.chosen.shape[1]) {
    int64_t pages = 0;
    for_each_tile([&](const Tile& tile) {
      ++tiles_;
      pages = std::max(pages, tile.pages());
    });
    // A piece has many more keys than it can keep.
    constexpr int64_t kPiecesPerThread = 2;
    if (threads > 1 && tiles_ > 0 && tiles_ < int64_t{2} * threads) {
      const int64_t most = std::max<int64_t>(1, pages * kPageTokens / (2 * topk_));
      pieces_ = std::min(most, (kPiecesPerThread * threads + tiles_ - 1) / tiles_);
    }
  }

  int64_t score_items() const { return tiles_ * pieces_; }
  int64_t merge_items() const { return pieces_ > 1 ? tiles_ * kScoreRows : 0; }

  size_t shared_bytes() const {
    const int64_t kept = pieces_ > 1 ? score_items() * kScoreRows * (2 * topk_ + 1) : 0;
    return static_cast<size_t>(tiles_) * sizeof(Tile) + static_cast<size_t>(kept) * sizeof(int32_t);
  }
  void use_shared(void* memory) {
    tile_list_ = static_cast<Tile*>(memory);
    kept_ = reinterpret_cast<int32_t*>(tile_list_ + tiles_);
    Tile* next = tile_list_;
    for_each_tile([&](const Tile& tile) { *next++ = tile; });
  }

  size_t scratch_bytes() const {
    const auto queries = static_cast<size_t>(kScoreRows * heads_) * static_cast<size_t>(dim_);
    return (queries + static_cast<size_t>(dim_) + kPageTokens) * sizeof(float) +
           static_cast<size_t>(heads_) * sizeof(void*) +
           static_cast<size_t>(2 * kScoreRows * Candidates::capacity(topk_)) * sizeof(int32_t);
  }

  /// The rows that keep all that they have need no scores.
  void keep_all() const {
    for (const SequenceRows& sequence : op_.sequences) {
      for (int32_t r = 0; r < first_scored(sequence); ++r) {
        int32_t* chosen = chosen_of(int64_t{sequence.first_row} + r);
        const int32_t length = sequence.context + r + 1;
        for (int32_t i = 0; i < topk_; ++i) chosen[i] = i < length ? i : -1;
      }
      if (op_.scores.empty()) continue;
      std::fill_n(op_.scores.as<float>() + sequence.first_row * op_.scores.shape[1],
                  sequence.rows * op_.scores.shape[1], 0.0F);
    }
  }

  void score(int64_t item, void* memory) const {
    const Tile& tile = tile_list_[item / pieces_];
    const int64_t piece = item % pieces_;
    auto* queries = static_cast<float*>(memory);
    float* row = queries + kScoreRows * heads_ * dim_;
    float* scores = row + dim_;
    auto* pointers = reinterpret_cast<const void**>(scores + kPageTokens);
    auto* candidate_memory = reinterpret_cast<int32_t*>(pointers + heads_);
    Candidates rows[kScoreRows];
    const int64_t words = static_cast<int64_t>(heads_) * dim_;
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t capacity = Candidates::capacity(topk_);
      rows[r] = Candidates(candidate_memory + 2 * r * capacity, candidate_memory + (2 * r + 1) * capacity, topk_);
      for (int h = 0; h < heads_; ++h) {
        pointers[h] = static_cast<const std::byte*>(op_.q.data) +
                      static_cast<size_t>((tile.step_row(r) * heads_ + h) * dim_) * dtype_bytes(op_.q.dtype);
      }
      pack_queries(kernels_, row_kernels_, {op_.q.dtype, 1, heads_, dim_, pointers, row, queries + r * words});
    }

    const int64_t begin = tile.pages() * piece / pieces_;
    const int64_t end = tile.pages() * (piece + 1) / pieces_;
    for (int64_t page = begin; page < end; ++page) {
      const unsigned char* keys = keys_of(tile, page);
      const unsigned char* next = keys_of(tile, std::min(page + 1, end - 1));
      for (int r = 0; r < tile.rows; ++r) {
        const int64_t left = tile.length(r) - page * kPageTokens;
        if (left <= 0) continue;
        kernels_.score_page(queries + r * words, op_.gate.as<float>() + tile.step_row(r) * heads_, heads_, dim_, keys,
                            r == 0 ? next : keys, scores);
        const int count = static_cast<int>(std::min<int64_t>(left, kPageTokens));
        rows[r].take(kernels_, scores, count, static_cast<int32_t>(page * kPageTokens));
        if (!op_.scores.empty()) {
          std::copy_n(scores, count,
                      op_.scores.as<float>() + tile.step_row(r) * op_.scores.shape[1] + page * kPageTokens);
        }
      }
    }
    for (int r = 0; r < tile.rows; ++r) {
      rows[r].cut(kernels_);
      if (pieces_ == 1) {
        choose(tile.step_row(r), rows[r]);
      } else {
        int32_t* kept = kept_of(item, r);
        *kept++ = static_cast<int32_t>(rows[r].orders().size());
        std::copy(rows[r].orders().begin(), rows[r].orders().end(), kept);
        std::copy(rows[r].indices().begin(), rows[r].indices().end(), kept + topk_);
      }
    }
  }

  /// One row of a tile, from what its pieces kept.
  void merge(int64_t item, void* memory) const {
    const Tile& tile = tile_list_[item / kScoreRows];
    const int r = static_cast<int>(item % kScoreRows);
    if (r >= tile.rows) return;
    auto* orders = static_cast<int32_t*>(memory);
    Candidates row(orders, orders + Candidates::capacity(topk_), topk_);
    for (int64_t piece = 0; piece < pieces_; ++piece) {
      const int32_t* kept = kept_of(item / kScoreRows * pieces_ + piece, r);
      const auto count = static_cast<size_t>(*kept++);
      row.take_all(kernels_, {kept, count}, {kept + topk_, count});
    }
    choose(tile.step_row(r), row);
  }

 private:
  int32_t first_scored(const SequenceRows& sequence) const {
    if (!op_.scores.empty()) return 0;
    return static_cast<int32_t>(std::clamp<int64_t>(topk_ - sequence.context, 0, sequence.rows));
  }
  template <class Visit>
  void for_each_tile(Visit&& visit) const {
    for (const SequenceRows& sequence : op_.sequences) {
      for (int32_t first = first_scored(sequence); first < sequence.rows; first += kScoreRows) {
        visit(Tile{&sequence, first, std::min(kScoreRows, sequence.rows - first)});
      }
    }
  }

  const unsigned char* keys_of(const Tile& tile, int64_t page) const {
    return reinterpret_cast<const unsigned char*>(op_.keys.block(tile.sequence->pages[static_cast<size_t>(page)], 0));
  }
  int32_t* chosen_of(int64_t row) const { return op_.chosen.as<int32_t>() + row * topk_; }
  int32_t* kept_of(int64_t item, int r) const { return kept_ + (item * kScoreRows + r) * (2 * topk_ + 1); }
  void choose(int64_t row, const Candidates& best) const {
    int32_t* chosen = chosen_of(row);
    std::fill(std::copy(best.indices().begin(), best.indices().end(), chosen), chosen + topk_, -1);
  }

  const SparseSelect& op_;
  const AttentionKernels& kernels_;
  const RowKernels& row_kernels_;
  int heads_;
  int dim_;
  int64_t topk_;
  int64_t tiles_ = 0;
  int64_t pieces_ = 1;
  Tile* tile_list_ = nullptr;
  int32_t* kept_ = nullptr;  // for each piece of a tile and row: how many, [topk] orders, [topk] indices
};

}  // namespace

void CpuBackend::do_indexer_input(const IndexerInput& op) {
  const RowKernels* kernels = row_kernels(isa_);
  const int64_t heads = op.q.shape[1];
  const auto dim = static_cast<int>(op.q.shape[2]);
  if (kernels == nullptr || dim < 32) return RefBackend::do_indexer_input(op);
  // Before any key is written, so that a page's new tokens may be written in any order and by any thread.
  for (const int32_t slot : op.slots) {
    if (slot % kPageTokens == 0) std::memset(op.keys.block(slot / kPageTokens, 0), 0, op.keys.head_bytes());
  }
  const float gate_scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const DType dtype = op.q.dtype;
  const bool narrow = dtype == DType::bf16;
  const auto token = [&](int64_t t, float* x, void* rounded) {
    const float* in = op.q_gate.as<float>() + t * (heads * dim + heads);
    const auto finish = [&](void* to) {
      kernels->rotate_hadamard(x, op.cos.as<float>() + t * (dim / 2), op.sin.as<float>() + t * (dim / 2), dim, narrow);
      if (narrow) round_row_to_f8(x, dim);
      round_to(*kernels, dtype, dim, x, to);
    };
    auto* q = static_cast<std::byte*>(op.q.data) + static_cast<size_t>(t * heads * dim) * dtype_bytes(dtype);
    for (int64_t h = 0; h < heads; ++h, q += static_cast<size_t>(dim) * dtype_bytes(dtype)) {
      kernels->rms_norm(in + h * dim, op.q_norm.as<float>(), op.eps, dim, x, nullptr);
      finish(q);
      op.gate.as<float>()[t * heads + h] = in[heads * dim + h] * gate_scale;
    }
    kernels->layer_norm(op.k_in.as<float>() + t * dim, op.k_norm.as<float>(), op.k_bias.as<float>(), op.eps, dim, x,
                        nullptr);
    finish(rounded);
    const int32_t slot = op.slots[static_cast<size_t>(t)];
    write_key(dtype, dim, rounded, op.keys.block(slot / kPageTokens, 0), slot % kPageTokens);
  };
  for_each_range(pool_, op.q.shape[0], 16 * (heads + 1) * dim, [&](int64_t begin, int64_t end, int worker) {
    auto* x = static_cast<float*>(scratch(worker, static_cast<size_t>(2 * dim) * sizeof(float)));
    for (int64_t t = begin; t < end; ++t) token(t, x, x + dim);
  });
}

void CpuBackend::do_sparse_select(const SparseSelect& op) {
  const AttentionKernels* kernels = attention_kernels(isa_, op.q.dtype);
  if (kernels == nullptr) return RefBackend::do_sparse_select(op);
  SelectRun run(op, *kernels, *row_kernels(isa_), pool_.size());
  run.use_shared(shared_scratch(run.shared_bytes()));
  run.keep_all();
  const size_t bytes = run.scratch_bytes();
  pool_.for_each(run.score_items(), [&](int64_t item, int worker) { run.score(item, scratch(worker, bytes)); });
  pool_.for_each(run.merge_items(), [&](int64_t item, int worker) { run.merge(item, scratch(worker, bytes)); });
}

}  // namespace keye::ops
