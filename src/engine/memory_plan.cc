#include "engine/memory_plan.h"

#include <algorithm>

#include "base/machine.h"

namespace keye::engine {
namespace {

/// Beside weights and KV cache: activations of a step, the program, the pictures of some requests.
constexpr double kWorkspaceBytes = 256e6;
constexpr int64_t kTokensMin = 2 * ops::kPageTokens;

}  // namespace

Result<int64_t> plan_kv_tokens(const model::Model& model, const MemoryPlan& plan) {
  const double memory = static_cast<double>(memory_limit_bytes());
  const double weights =
      static_cast<double>(model::count_parameters(model.config())) * static_cast<double>(dtype_bytes(plan.dtype));
  const double room = std::max(0.0, memory * plan.fraction - weights - kWorkspaceBytes);
  const auto that_fit = static_cast<int64_t>(room / static_cast<double>(model.kv_spec().bytes_per_token()));
  if (that_fit < std::min(kTokensMin, plan.tokens_wanted)) {
    return make_error(ErrorCode::too_large, "memory",
                      "{:.0f} % of {:.2f} GB leave {:.2f} GB for the KV cache beside {:.2f} GB of weights",
                      100 * plan.fraction, memory / 1e9, room / 1e9, weights / 1e9);
  }
  return std::min(that_fit, plan.tokens_wanted);
}

}  // namespace keye::engine
