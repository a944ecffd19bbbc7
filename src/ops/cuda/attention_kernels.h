// Attention on the device: what attention.h and indexer.h promise, with everything in device memory.
#pragma once

#include <cstdint>

#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

/// Element types of tensors and of the cache.
enum class Element : uint8_t { f32, bf16, i8, f8 };

/// One sequence's rows of a step (SequenceRows), its pages being pages[first_page ...] of the step's table.
struct DeviceSequence {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t context = 0;
  int32_t first_page = 0;
};

/// All of a step's. `rows_max` and `length_max` bound rows and context + rows: the host sizes grids by them.
struct DeviceSequences {
  const DeviceSequence* sequences = nullptr;
  const int32_t* pages = nullptr;
  int count = 0;
  int rows_max = 0;
  int length_max = 0;
};

/// KvPlane in the layout `rows`: [page][head]: [64][dim] elements, then for i8 and f8 [64] f32 scales.
struct DevicePlane {
  void* data = nullptr;
  Element element = Element::bf16;
  int heads = 0;
  int dim = 0;
};

struct AttentionInputArguments {
  const float* qkv;  // [n, (h + 2 g) d]
  const float* q_norm;
  const float* k_norm;
  float eps;
  const float* cos;
  const float* sin;
  const int32_t* slots;
  void* q;  // [n, h, d] of q_element
  Element q_element;
  DevicePlane k, v;
  int n, heads;
};
void attention_input(Stream stream, const AttentionInputArguments& a);

/// Keys of a partial result: attention over longer contexts is computed in parts of so many keys, which are then merged
/// in order, wherever and whenever they were computed.
inline constexpr int kKeysPerPart = 512;

struct PagedAttentionArguments {
  const void* q;  // [n, h, d] of `element`
  Element element;
  DevicePlane k, v;
  DeviceSequences sequences;
  float scale;
  const int32_t* chosen;  // [n, chosen_max], or null
  int chosen_max;
  void* out;  // [n, h d] of `element`
  int n, heads;
  float* workspace;  // of paged_attention_workspace() floats
  bool hopper;       // sm_90a's kernels may run
};
/// Floats that a call with such bounds may need.
int64_t paged_attention_workspace(const PagedAttentionArguments& a, int processors);
void paged_attention(Stream stream, const PagedAttentionArguments& a, int processors);

struct VisionAttentionArguments {
  const void* qkv;  // [p, 3, h, d] of `element`
  Element element;
  const float* cos;
  const float* sin;
  const int32_t* segments;  // [count + 1]
  int segment_count;
  int segment_max;  // patches of the longest
  float scale;
  void* out;  // [p, h d] of out_element
  Element out_element;
  int p, heads, dim;
  void* workspace;  // of vision_attention_workspace() bytes
  bool hopper;
};
int64_t vision_attention_workspace(const VisionAttentionArguments& a);
void vision_attention(Stream stream, const VisionAttentionArguments& a);

struct IndexerInputArguments {
  const float* q_gate;  // [n, H D + H]
  const float* k_in;    // [n, D]
  const float* q_norm;
  const float* k_norm;
  const float* k_bias;
  float eps;
  const float* cos;
  const float* sin;
  const int32_t* slots;
  void* q;  // [n, H, D] of `element`
  Element element;
  float* gate;  // [n, H]
  DevicePlane keys;
  int n, heads, dim;
};
void indexer_input(Stream stream, const IndexerInputArguments& a);

struct SparseSelectArguments {
  const void* q;  // [n, H, D] of `element`
  Element element;
  const float* gate;
  DevicePlane keys;  // one head
  DeviceSequences sequences;
  int32_t* chosen;  // [n, topk]
  int topk;
  float* scores;  // [n, scores_stride], or null
  int scores_stride;
  int n, heads, dim;
  float* workspace;  // of sparse_select_workspace() floats
};
int64_t sparse_select_workspace(const SparseSelectArguments& a);
void sparse_select(Stream stream, const SparseSelectArguments& a);

}  // namespace keye::ops::cuda
