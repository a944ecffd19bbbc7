// Attention by Hopper's tensor cores (sm_90a): the bits of flash.h's kernels, faster, for many rows. No CUDA header.
#pragma once

#include "ops/cuda/attention_kernels.h"

namespace keye::ops::cuda {

/// Sequences with more (token, head) pairs for each KV head than `few_pairs`; the others are left alone. bf16, head
/// widths 64 and 128, no choice. Returns a cudaError_t.
[[nodiscard]] int flash_paged(Stream stream, const PagedAttentionArguments& a, int few_pairs);
/// q, k and v arranged by vision_attention(): [3][heads][p][80] bf16, head width at most 72. Returns a cudaError_t.
[[nodiscard]] int flash_segments(Stream stream, const VisionAttentionArguments& a);

}  // namespace keye::ops::cuda
