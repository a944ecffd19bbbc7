// What attention over the cache and attention of the encoder share: the kernels' choice, a thread's scratch, the
// layouts.
#pragma once

#include <cstdint>

#include "ops/cpu/attention_kernels.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/row_kernels.h"
#include "ops/paged_kv.h"

namespace keye::ops {

/// The kernels for planes of this dtype; null for Isa::scalar, where the reference does the work.
const AttentionKernels* attention_kernels(Isa isa, DType dtype);

/// One thread's memory for a tile, carved out of `memory`; of null, only `bytes`, how much it takes, is filled in.
struct TileScratch {
  TileScratch(void* memory, int dim);

  size_t bytes = 0;
  float* work = nullptr;            // AttentionTile's
  float* state = nullptr;           // AttentionTile's
  float* q = nullptr;               // the packed queries
  float* row = nullptr;             // one head
  const void** queries = nullptr;   // [kTileRows]
  int32_t* limits = nullptr;        // [kTileRows]
  unsigned char* packed = nullptr;  // AttentionTile's
};

/// Packs heads * rows queries, each a head of `dim` elements of `dtype`, as AttentionTile::q says. `row` is scratch for
/// one of them in f32.
struct PackQueries {
  DType dtype;
  int heads;
  int rows;
  int dim;
  const void* const* queries;
  float* row;
  float* out;
};
void pack_queries(const AttentionKernels& kernels, const RowKernels& row_kernels, const PackQueries& work);

/// Writes one token's head into its slot of a page's block (layouts: paged_kv.h).
void write_key(DType dtype, int dim, const void* head, std::byte* block, int slot);
void write_value(DType dtype, int dim, const void* head, std::byte* block, int slot);

/// Writes one token's head, in f32, into its slot of a plane's block in any layout, rounded to the plane's dtype.
/// `rounded` is scratch for a head.
void write_head(const RowKernels& row_kernels, const KvPlane& plane, const float* head, std::byte* block, int slot,
                void* rounded);

/// Clears the slots [from, kPageTokens) of one head's block.
void clear_slots(const KvPlane& plane, std::byte* block, int from);

/// out[0, count) of `dtype` = x, rounded.
void round_to(const RowKernels& row_kernels, DType dtype, int count, const float* x, void* out);

/// The kernels' exponentials are powers of two.
inline float scale_for_powers_of_two(float scale) { return scale * 1.44269504088896340736F; }

}  // namespace keye::ops
