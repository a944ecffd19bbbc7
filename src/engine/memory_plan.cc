#include "engine/memory_plan.h"

#include <algorithm>

namespace keye::engine {
namespace {

/// Beside weights and KV cache: activations of a step, the program, the pictures of some requests.
constexpr double kWorkspaceBytes = 256e6;
constexpr int64_t kTokensMin = 2 * ops::kPageTokens;

}  // namespace

Result<int64_t> plan_kv_tokens(model::Model& model, const MemoryPlan& plan) {
  const double memory = static_cast<double>(model.backend().memory_total()) / plan.ranks_here;
  const auto weights = static_cast<double>(model::weight_bytes(model.config(), plan.dtype, plan.shard));
  double room = std::max(0.0, memory * plan.fraction - weights - kWorkspaceBytes);
  if (!model.backend().on_host()) {
    // What is not free is taken: weights and activations, and what others have. All of the cache is taken at once.
    const auto free = static_cast<double>(model.backend().memory_available());
    room = std::max(0.0, free - memory * (1 - plan.fraction));
  }
  const auto that_fit = static_cast<int64_t>(room / static_cast<double>(model.kv_spec().bytes_per_token()));
  if (that_fit < std::min(kTokensMin, plan.tokens_wanted)) {
    return make_error(ErrorCode::too_large, "memory",
                      "{:.0f} % of {:.2f} GB leave {:.2f} GB for the KV cache beside {:.2f} GB of weights",
                      100 * plan.fraction, memory / 1e9, room / 1e9, weights / 1e9);
  }
  return std::min(that_fit, plan.tokens_wanted);
}

}  // namespace keye::engine
