// How large a KV cache may be.
#pragma once

#include "base/result.h"
#include "model/model.h"

namespace keye::engine {

struct MemoryPlan {
  DType dtype = DType::bf16;  // of the weights
  double fraction = 0.7;      // of this rank's share of the memory, for weights, KV cache and activations
  int64_t tokens_wanted = 0;  // no more than that
  model::Shard shard = {};    // the part of the model that is here
  int ranks_here = 1;         // that share this memory
};

/// Tokens that the KV cache holds: as many as are wanted, or as fit. Memory is used only as pages are filled.
/// Errors: too_large (hardly any fit).
Result<int64_t> plan_kv_tokens(model::Model& model, const MemoryPlan& plan);

}  // namespace keye::engine
