#include "engine/plan.h"

#include <algorithm>
#include <cmath>

#include "model/shapes.h"

namespace keye::engine {
namespace {

/// The program, scratch of kernels, and what requests bring.
constexpr double kProgramBytes = 256e6;
/// Of a rank's mailbox for messages (comm/shared_memory.h), and its share of the node's.
constexpr double kMailboxBytes = 2 * (1 << 20);

}  // namespace

Result<MachineSpec> gpu_spec(const std::string& name) {
  constexpr double kNetwork = 400e9 / 8;
  constexpr double kLatency = 5e-6;
  if (name == "h100" || name == "h800") return MachineSpec{name, 80e9, 3.35e12, 989e12, kNetwork, kLatency};
  if (name == "h200") return MachineSpec{name, 141e9, 4.8e12, 989e12, kNetwork, kLatency};
  return make_error(ErrorCode::invalid_argument, "--gpu",
                    "\"{}\" is not known; h100, h800 and h200 are; or give "
                    "--memory-gb, --memory-bandwidth and --flops",
                    name);
}

std::string Plan::Bound::limit() const {
  const double most = std::max({memory_s, arithmetic_s, network_s});
  return most == network_s ? "network" : most == memory_s ? "memory bandwidth" : "arithmetic";
}

Result<Plan> make_plan(const model::ModelConfig& config, const PlanOptions& options, const MachineSpec& machine) {
  const model::TextConfig& text = config.text;
  const model::Shard& shard = options.model.shard;
  KEYE_TRY_VOID(model::check_shard(config, shard));
  const int64_t context = options.context > 0 ? options.context : text.positions_max;
  if (context > text.positions_max || options.prompt >= context) {
    return make_error(ErrorCode::invalid_argument, options.prompt >= context ? "--prompt" : "--context",
                      "the context of {} holds at most {} tokens, got {}", config.architecture,
                      std::min<int64_t>(context, text.positions_max), std::max(options.prompt, context));
  }
  Plan plan;
  const double ranks = shard.size;
  const double hidden = text.hidden;
  plan.weights = static_cast<double>(model::weight_bytes(config, options.model.dtype, shard));
  plan.workspace = static_cast<double>(model::workspace_bytes(config, options.model)) + kProgramBytes;
  if (shard.size > 1) plan.workspace += 2.0 * options.model.step_tokens_max * hidden * sizeof(float) + kMailboxBytes;
  plan.kv_per_token = static_cast<double>(model::kv_spec_of(config, options.model).bytes_per_token());
  plan.kv_room = machine.memory_bytes * options.memory_fraction - plan.weights - plan.workspace;
  if (plan.kv_room < plan.kv_per_token * ops::kPageTokens) {
    return make_error(ErrorCode::too_large, "memory",
                      "{:.1f} GB of weights and {:.1f} GB of workspace do not fit {:.0f} % of a rank's {:.1f} GB; more "
                      "ranks have less each",
                      plan.weights / 1e9, plan.workspace / 1e9, 100 * options.memory_fraction,
                      machine.memory_bytes / 1e9);
  }
  plan.kv_tokens = static_cast<int64_t>(plan.kv_room / plan.kv_per_token) / ops::kPageTokens * ops::kPageTokens;
  plan.context_max = std::min<int64_t>(text.positions_max, plan.kv_tokens);
  plan.batch_max = plan.kv_tokens / std::min(context, plan.context_max);

  // A node sends its part of each sum to each other node: two sums a layer, and its part of the logits to node 0.
  const double others = options.nodes - 1;
  plan.wire_per_token = others * 2 * text.layers * hidden * sizeof(float);
  plan.wire_per_sample = others == 0 ? 0 : text.vocab / static_cast<double>(options.nodes) * sizeof(float);

  const model::StepCost cost = model::step_cost(config, options.model.dtype);
  const auto per_rank = [&](double whole, double replicated) { return (whole - replicated) / ranks + replicated; };
  const auto visible = [&](double keys) {
    return text.indexer ? std::min(keys, static_cast<double>(text.indexer->topk)) : keys;
  };
  const auto network = [&](double tokens, double samples, double steps) {
    if (others == 0) return 0.0;
    const double latency = steps * (2 * text.layers + 2) * machine.network_latency_s;
    return latency + (tokens * plan.wire_per_token + samples * plan.wire_per_sample) / machine.network_bytes_per_s;
  };

  const double prompt = static_cast<double>(options.prompt);
  const double steps = std::ceil(prompt / options.model.step_tokens_max);
  plan.first_token.memory_s =
      steps * per_rank(cost.weight_bytes(prompt / steps), cost.replicated_bytes) / machine.read_bytes_per_s;
  const double keys = visible(prompt / 2) * prompt;
  plan.first_token.arithmetic_s = (prompt * per_rank(cost.matmul_flops_per_token, cost.replicated_flops) +
                                   (cost.head_flops + keys * cost.attention_flops_per_key) / ranks) /
                                  machine.flops;
  plan.first_token.network_s = network(prompt, 1, steps);

  const double batch = options.batch;
  const double at = static_cast<double>(std::min(context, plan.context_max));
  plan.step.memory_s =
      (per_rank(cost.weight_bytes(batch), cost.replicated_bytes) + batch * visible(at) * plan.kv_per_token) /
      machine.read_bytes_per_s;
  plan.step.arithmetic_s = batch *
                           (per_rank(cost.matmul_flops_per_token, cost.replicated_flops) +
                            (cost.head_flops + visible(at) * cost.attention_flops_per_key) / ranks) /
                           machine.flops;
  plan.step.network_s = network(batch, batch, 1);
  plan.tokens_per_s = batch / plan.step.seconds();
  return plan;
}

}  // namespace keye::engine
