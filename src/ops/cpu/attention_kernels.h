// Attention of a tile of query rows over the pages of one key/value head: what each instruction set implements.
// Included by files compiled for one set alone, so plain types only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace keye::ops {

/// A row's keys are cut every kChunkPages pages, counted from the start of its sequence. Inside a chunk the pages are
/// visited in order with a running maximum and sum; the chunks' results are combined in order. That holds for every
/// tile, thread count and batch, so it does not show in the bits which chunks one thread worked on.
inline constexpr int kChunkPages = 16;

/// Query rows in a tile: enough that a page, once in the cache, is used many times.
inline constexpr int kTileRows = 48;
/// Floats from one row's mix to the next: whole registers.
static constexpr size_t mix_stride(int dim) { return (static_cast<size_t>(dim) + 15) / 16 * 16; }

/// What a row carries from chunk to chunk: [0] the maximum, [1] the sum, [kStateMix, ...) the mix. An empty row has the
/// maximum kNoMaximum.
inline constexpr size_t kStateMix = 16;
inline constexpr float kNoMaximum = -3.4028234663852886e38F;
static constexpr size_t state_stride(int dim) { return kStateMix + mix_stride(dim); }

/// Floats of scratch for a tile.
static constexpr size_t attention_work_floats(int dim) { return kTileRows * (16 + 16 + mix_stride(dim)); }

/// The rows of a tile's head are cut into blocks as even as can be, of at most `block_max` rows. Block i holds the rows
/// [row_of_block(i), row_of_block(i + 1)).
static constexpr int block_count(int rows, int block_max) { return (rows + block_max - 1) / block_max; }
static constexpr int row_of_block(int rows, int block_max, int block) {
  const int blocks = block_count(rows, block_max);
  return block * (rows / blocks) + (block < rows % blocks ? block : rows % blocks);
}

/// How a plane holds its elements: packed as paged_kv.h's layouts `keys` and `values` say, or in the layout `rows`: as
/// the packed form would hold them, or quantised.
enum class Elements : uint8_t { packed, same, i8, f8 };

/// The plane of a tile's keys or values: the first head's block in page 0, and from there to the next page and head.
struct TilePlane {
  const unsigned char* data = nullptr;
  size_t page_bytes = 0;
  size_t head_bytes = 0;
  size_t row_bytes = 0;  // from token to token, unless packed
  Elements elements = Elements::packed;
};

/// Some consecutive key/value heads, and for each of them the same rows: those of one or several tokens, of the query
/// heads that share it. Row r mixes the keys [0, limits[r]); heads * rows is at most kTileRows.
/// With `chosen`, key i is the sequence's token chosen[i], and the pages below count 64 keys each, not 64 tokens.
struct AttentionTile {
  const void* q = nullptr;  // head by head, block by block, each [words of a row][rows of the block], of 32 bits a word
  int heads = 1;
  int rows = 0;
  int dim = 0;
  int value_dim = 0;                // at most dim: it may be that the values are the beginnings of the keys
  float scale = 0;                  // times log2(e): the kernels work with powers of two
  const int32_t* limits = nullptr;  // [rows]
  TilePlane keys;
  TilePlane values;
  const int32_t* pages = nullptr;   // the plane's page that holds the sequence's page i; null: i itself
  const int32_t* chosen = nullptr;  // [limits[0]], all limits being the same; or null
  int first_page = 0;               // a multiple of kChunkPages
  int last_page = 0;                // one past the last
  float* work = nullptr;            // [attention_work_floats]
  unsigned char* packed = nullptr;  // [packed_page_bytes]: where pages that are not packed will be
  float* state = nullptr;           // [heads][rows][state_stride(value_dim)], written
};

/// Memory for one head's packed page of keys and values: elements of up to 32 bits, scales, a few rows on their way,
/// and room for whole registers after the last element.
static constexpr size_t packed_page_bytes(int dim) {
  return 4 * (64 * static_cast<size_t>(dim) * 2 + 2 * 64 + 16 * mix_stride(dim) + 4 * 16);
}

struct AttentionKernels {
  /// Rows in a block, and whether q must be given in f32 where the planes are bf16.
  int block_max;
  bool wide_queries;

  void (*attend)(const AttentionTile& tile);
  /// Combines the state of later chunks into that of earlier ones.
  void (*combine)(float* state, const float* later, int rows, int dim, float scale);
  /// Divides the mixes by their sums; rows without keys become zero.
  void (*finish)(float* state, int rows, int dim);
  /// Rotates the pairs (i, i + dim/2), in place.
  void (*rotate)(float* x, const float* cos, const float* sin, int dim);

  /// The indexer's scores of one page: scores[s] = sum_h gates[h] max(0, q[h] . keys[s]) for 64 keys, h in order. q is
  /// packed as a tile's with a row for each head; `next`, unless it is `keys`, is read ahead meanwhile.
  void (*score_page)(const float* q, const float* gates, int heads, int dim, const unsigned char* keys,
                     const unsigned char* next, float* scores);
  /// Appends the first `count` of 64 scores that are above `threshold`, as integers of the same order (order_of), and
  /// their indices, which begin with `first`; returns how many. Writes up to 64 of each.
  int (*take)(const float* scores, int count, int32_t threshold, int32_t first, int32_t* orders, int32_t* indices);
  /// How many of them are above it; count < 2^31.
  int64_t (*count_above)(const int32_t* orders, int64_t count, int32_t threshold);
};

/// Scores as integers of the same order: both zeros equal, NaN below every number, and kBelowAll below NaN.
inline constexpr int32_t kBelowAll = INT32_MIN;
static inline int32_t order_of(float score) {
  const float value = score + 0.0F;
  int32_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if (value != value) return INT32_MIN + 1;
  return bits ^ ((bits >> 31) & INT32_MAX);
}

const AttentionKernels& avx2_attention_f32();
const AttentionKernels& avx2_attention_bf16();
const AttentionKernels& avx512_attention_f32();
const AttentionKernels& avx512_attention_bf16();
const AttentionKernels& avx512_bf16_attention_bf16();

}  // namespace keye::ops
