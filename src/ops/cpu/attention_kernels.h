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

/// Some consecutive key/value heads, and for each of them the same rows: those of one or several tokens, of the query
/// heads that share it. Row r mixes those of the keys [0, limits[r]) whose bit is set in selection[r] (bit j % 64 of
/// word j / 64). heads * rows is at most kTileRows.
struct AttentionTile {
  const void* q = nullptr;  // head by head, block by block, each [words of a row][rows of the block], of 32 bits a word
  int heads = 1;
  int rows = 0;
  int dim = 0;
  float scale = 0;                             // times log2(e): the kernels work with powers of two
  const int32_t* limits = nullptr;             // [rows]
  const uint64_t* const* selection = nullptr;  // [rows], or null: all
  const unsigned char* keys = nullptr;         // the first head's block in page 0 of the planes (layouts: paged_kv.h)
  const unsigned char* values = nullptr;
  size_t page_bytes = 0;
  size_t head_bytes = 0;
  const int32_t* pages = nullptr;  // the plane's page that holds the sequence's page i; null: i itself
  int first_page = 0;              // a multiple of kChunkPages
  int last_page = 0;               // one past the last
  float* work = nullptr;           // [attention_work_floats]
  float* state = nullptr;          // [heads][rows][state_stride], written
};

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
};

const AttentionKernels& avx2_attention_f32();
const AttentionKernels& avx2_attention_bf16();
const AttentionKernels& avx512_attention_f32();
const AttentionKernels& avx512_attention_bf16();
const AttentionKernels& avx512_bf16_attention_bf16();

}  // namespace keye::ops
