// Named shapes of published models, for benchmarks with random weights.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace keye::model {

/// Errors: invalid_argument naming the known shapes.
Result<ModelConfig> named_shape(std::string_view name);
std::vector<std::string_view> shape_names();

/// What one step costs, from the shape alone.
struct StepCost {
  double matmul_flops_per_token = 0;   // all layers, active experts only, without the output head
  double head_flops = 0;               // for each row of logits
  double attention_flops_per_key = 0;  // all layers, for each (token, visible key) pair
  double shared_weight_bytes = 0;      // read in every step, the output head included
  double expert_bytes = 0;             // of one expert in one layer
  double replicated_bytes = 0;         // of shared_weight_bytes: what every rank reads all of
  double replicated_flops = 0;         // of matmul_flops_per_token, likewise
  int moe_layers = 0;
  int experts = 0;
  int experts_per_token = 0;

  /// Bytes of weights that a step of `tokens` tokens reads, if routing is even: the expected number of distinct
  /// experts.
  double weight_bytes(double tokens) const;
};
StepCost step_cost(const ModelConfig& config, DType dtype);

/// Multiply-adds count as two. `patches` of one picture attend to each other.
double vision_flops(const VisionConfig& config, int text_hidden, double patches);

}  // namespace keye::model
