#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"

namespace keye::ops {
namespace {

/// Consecutive rows of one sequence that are scored together, so that a page of keys is read once for all of them.
struct Tile {
  const SequenceRows* sequence;
  int64_t first;  // row of the sequence
  int64_t rows;

  int64_t step_row(int64_t r) const { return sequence->first_row + first + r; }
  int64_t length(int64_t r) const { return sequence->context + first + r + 1; }
};
constexpr int64_t kScoreRows = 4;
/// Tiles per thread whose scores are held at a time.
constexpr int64_t kTilesPerThread = 2;
/// Pages that one thread scores before another may take the next ones.
constexpr int64_t kScorePages = 32;

constexpr int32_t kLowestKey = std::numeric_limits<int32_t>::min();

/// Scores as integers of the same order: both zeros equal, NaN lowest.
int32_t score_key(float score) {
  const auto bits = std::bit_cast<int32_t>(score + 0.0F);
  const int32_t key = bits >= 0 ? bits : bits ^ std::numeric_limits<int32_t>::max();
  return std::isnan(score) ? kLowestKey : key;
}

struct Cut {
  int32_t threshold;  // the kept-th largest key
  int64_t ties;       // how many of the keys that equal it are kept
};

/// Three rounds of counting, each on the next digits of the keys that agree with the digits found so far.
Cut find_cut(const int32_t* keys, int64_t count, int64_t kept) {
  constexpr uint32_t kSign = 0x80000000U;
  uint32_t prefix = 0;  // the digits found so far, of keys with the sign flipped so that they compare unsigned
  uint32_t known = 0;   // which bits those are
  for (const auto& [shift, digits] : {std::pair{21, 11}, {10, 11}, {0, 10}}) {
    const uint32_t mask = (1U << digits) - 1;
    int32_t counts[1 << 11] = {};
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t key = static_cast<uint32_t>(keys[i]) ^ kSign;
      if ((key & known) == prefix) ++counts[(key >> shift) & mask];
    }
    uint32_t digit = mask;
    for (; counts[digit] < kept; --digit) kept -= counts[digit];
    prefix |= digit << shift;
    known |= mask << shift;
  }
  return {static_cast<int32_t>(prefix ^ kSign), kept};
}

/// Sets the bits of the topk best of `length` scores; `keys` is scratch for whole pages.
void select_best(const RowKernels& kernels, const float* scores, int64_t length, int64_t topk, int32_t* keys,
                 uint64_t* selection) {
  const int64_t pages = pages_for(length);
  for (int64_t i = 0; i < length; ++i) keys[i] = score_key(scores[i]);
  std::fill(keys + length, keys + pages * kPageTokens, kLowestKey);
  Cut cut = find_cut(keys, length, topk);
  for (int64_t page = 0; page < pages; ++page) {
    uint64_t above = 0;
    uint64_t equal = 0;
    kernels.compare_page(keys + page * kPageTokens, cut.threshold, &above, &equal);
    if (const int64_t count = std::popcount(equal); count <= cut.ties) {
      cut.ties -= count;
    } else {
      uint64_t rest = equal;
      for (; cut.ties > 0; --cut.ties) rest &= rest - 1;  // keeps the lowest bit
      equal ^= rest;
    }
    selection[page] = above | equal;
  }
}

void select_all(int64_t length, uint64_t* selection) {
  std::fill_n(selection, length / 64, ~uint64_t{0});
  if (length % 64 != 0) selection[length / 64] = (uint64_t{1} << (length % 64)) - 1;
}

/// The scores of the tile's rows on the pages [begin, end); row r starts at scores + r * stride.
void score_tile(const RowKernels& kernels, const SparseSelect& op, const Tile& tile, int64_t begin, int64_t end,
                float* scores, int64_t stride) {
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  for (int64_t page = begin; page < end; ++page) {
    const auto* keys =
        reinterpret_cast<const float*>(op.keys.block(tile.sequence->pages[static_cast<size_t>(page)], 0));
    for (int64_t r = 0; r < tile.rows; ++r) {
      if (page >= pages_for(tile.length(r))) continue;
      const int64_t t = tile.step_row(r);
      kernels.score_page(op.q.as<float>() + t * heads * dim, op.gate.as<float>() + t * heads, heads, dim, keys,
                         scores + r * stride + page * kPageTokens);
    }
  }
}

void copy_scores(const float* scores, int64_t length, const View& out, int64_t row) {
  float* to = out.as<float>() + row * out.shape[1];
  std::copy_n(scores, length, to);
  std::fill(to + length, to + out.shape[1], 0.0F);
}

}  // namespace

void CpuBackend::do_indexer_input(const IndexerInput& op) {
  const RowKernels* kernels = row_kernels(isa_);
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  if (kernels == nullptr || dim < 32) return RefBackend::do_indexer_input(op);
  // Before any key is written, so that a page's new tokens may be written in any order and by any thread.
  for (const int32_t slot : op.slots) {
    if (slot % kPageTokens == 0) std::memset(op.keys.block(slot / kPageTokens, 0), 0, op.keys.head_bytes());
  }
  const float gate_scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const auto token = [&](int64_t t, float* key) {
    const float* in = op.q_gate.as<float>() + t * (heads * dim + heads);
    const float* cos = op.cos.as<float>() + t * (dim / 2);
    const float* sin = op.sin.as<float>() + t * (dim / 2);
    for (int64_t h = 0; h < heads; ++h) {
      float* q = op.q.as<float>() + (t * heads + h) * dim;
      kernels->rms_norm(in + h * dim, op.q_norm.as<float>(), op.eps, dim, q, nullptr);
      kernels->rotate_hadamard(q, cos, sin, dim);
      op.gate.as<float>()[t * heads + h] = in[heads * dim + h] * gate_scale;
    }
    kernels->layer_norm(op.k_in.as<float>() + t * dim, op.k_norm.as<float>(), op.k_bias.as<float>(), op.eps, dim, key,
                        nullptr);
    kernels->rotate_hadamard(key, cos, sin, dim);
    const int32_t slot = op.slots[static_cast<size_t>(t)];
    auto* page = reinterpret_cast<float*>(op.keys.block(slot / kPageTokens, 0)) + slot % kPageTokens;
    for (int64_t i = 0; i < dim; ++i) page[i * kPageTokens] = key[i];
  };
  for_each_range(pool_, op.q.shape[0], 16 * (heads + 1) * dim, [&](int64_t begin, int64_t end, int worker) {
    auto* key = static_cast<float*>(scratch(worker, static_cast<size_t>(dim) * sizeof(float)));
    for (int64_t t = begin; t < end; ++t) token(t, key);
  });
}

void CpuBackend::do_sparse_select(const SparseSelect& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_sparse_select(op);

  std::vector<Tile> tiles;
  int64_t longest = 0;
  for (const SequenceRows& sequence : op.sequences) {
    // The first rows may keep all that they have, and then need no scores.
    int64_t first = op.scores.empty() ? std::clamp<int64_t>(int64_t{op.topk} - sequence.context, 0, sequence.rows) : 0;
    for (int64_t r = 0; r < first; ++r) {
      uint64_t* selection = op.selection + (sequence.first_row + r) * op.selection_words;
      std::fill_n(selection, op.selection_words, 0);
      select_all(sequence.context + r + 1, selection);
    }
    for (; first < sequence.rows; first += kScoreRows) {
      tiles.push_back({&sequence, first, std::min(kScoreRows, sequence.rows - first)});
      longest = std::max(longest, tiles.back().length(tiles.back().rows - 1));
    }
  }

  const int64_t stride = pages_for(longest) * kPageTokens;
  const int64_t chunks = (pages_for(longest) + kScorePages - 1) / kScorePages;
  const auto count = static_cast<int64_t>(tiles.size());
  const int64_t group_tiles = std::min(count, kTilesPerThread * pool_.size());
  auto* scores =
      static_cast<float*>(shared_scratch(static_cast<size_t>(group_tiles * kScoreRows * stride) * sizeof(float)));
  for (int64_t group = 0; group < count; group += group_tiles) {
    const int64_t held = std::min(group_tiles, count - group);
    const auto tile_of = [&](int64_t i) -> const Tile& { return tiles[static_cast<size_t>(group + i)]; };
    pool_.for_each(held * chunks, [&](int64_t item, int) {
      const Tile& tile = tile_of(item / chunks);
      const int64_t begin = item % chunks * kScorePages;
      const int64_t end = std::min(begin + kScorePages, pages_for(tile.length(tile.rows - 1)));
      score_tile(*kernels, op, tile, begin, end, scores + item / chunks * kScoreRows * stride, stride);
    });
    pool_.for_each(held * kScoreRows, [&](int64_t item, int worker) {
      const Tile& tile = tile_of(item / kScoreRows);
      const int64_t r = item % kScoreRows;
      if (r >= tile.rows) return;
      const int64_t length = tile.length(r);
      const int64_t row = tile.step_row(r);
      uint64_t* selection = op.selection + row * op.selection_words;
      std::fill_n(selection, op.selection_words, 0);
      if (length <= op.topk) {
        select_all(length, selection);
      } else {
        auto* keys = static_cast<int32_t*>(scratch(worker, static_cast<size_t>(stride) * sizeof(int32_t)));
        select_best(*kernels, scores + item * stride, length, op.topk, keys, selection);
      }
      if (!op.scores.empty()) copy_scores(scores + item * stride, length, op.scores, row);
    });
  }
}

}  // namespace keye::ops
