// One layer's attention at a depth of context, dense and sparse, beside the machine's limits.
#pragma once

#include <optional>
#include <vector>

#include "engine/bench.h"
#include "model/config.h"

namespace keye::engine {

struct BenchAttentionOptions {
  int context = 131072;  // tokens before the step's own
  int chunk = 512;       // tokens of the prefill step
  bool dense = true;
  bool sparse = true;
  std::optional<int> topk;  // instead of the shape's
  DType key_dtype = DType::bf16;
  DType value_dtype = DType::bf16;
  bool layer = false;    // also the layer's other work, projections and experts: `layer_s`
  double seconds = 1.0;  // for each figure, at least
  int threads = 0;
  std::string isa;
};

/// Medians, of one step of one layer.
struct AttentionTimes {
  double total_s = 0;      // the sum of the three
  double indexer_s = 0;    // projections, and what makes queries and keys of them
  double selection_s = 0;  // scores and top-k
  double attention_s = 0;
  double attention_bytes = 0, attention_flops = 0;  // keys and values that must be read, multiply-adds as two
  double scoring_bytes = 0, scoring_flops = 0;
  double layer_s = 0;  // the whole layer, if asked for
};

struct AttentionReport {
  struct Kind {
    AttentionTimes decode, prefill;
  };
  std::optional<Kind> dense, sparse;
  BenchLimits limits;
  std::string backend;
  int topk = 0;
};

/// Random weights and a random cache of `config`'s attention. Errors: invalid_argument, unsupported (sparse attention
/// of a shape without an indexer).
Result<AttentionReport> run_bench_attention(const model::ModelConfig& config, const BenchAttentionOptions& options,
                                            const BenchProgress& progress);

}  // namespace keye::engine
