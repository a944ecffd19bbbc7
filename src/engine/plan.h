// What a model needs of machines that are not here: memory of each rank, bytes between nodes, bounds on speed.
#pragma once

#include <algorithm>
#include <string>

#include "base/result.h"
#include "model/model.h"

namespace keye::engine {

/// One rank's share of a machine, and what joins the nodes.
struct MachineSpec {
  std::string name;
  double memory_bytes = 0;
  double read_bytes_per_s = 0;     // of memory
  double flops = 0;                // multiply-adds of the dtype count as two
  double network_bytes_per_s = 0;  // of a node, each way
  double network_latency_s = 0;    // of one message
};
/// "h100", "h800" or "h200", with 8 of them to a node and 400 Gbit/s between nodes. Errors: invalid_argument.
Result<MachineSpec> gpu_spec(const std::string& name);

struct PlanOptions {
  model::ModelOptions model;  // .shard: of the rank that is looked at; rank 0 has the most
  int nodes = 1;
  double memory_fraction = 0.8;
  int64_t context = 0;  // of one request; 0: the model's own
  int batch = 1;        // replies together, for the bounds
  int64_t prompt = 4096;
};

struct Plan {
  // Bytes of one rank.
  double weights = 0;
  double workspace = 0;  // activations of a step, sums with other ranks, and the program's own
  double kv_per_token = 0;
  double kv_room = 0;
  int64_t kv_tokens = 0;
  int64_t context_max = 0;  // of one request alone
  int64_t batch_max = 0;    // requests of that context
  // Bytes that a node sends for each token that is computed, and for each that is sampled.
  double wire_per_token = 0;
  double wire_per_sample = 0;

  /// Lower bounds of a time, by what takes it; memory and arithmetic overlap, sums do not.
  struct Bound {
    double memory_s = 0, arithmetic_s = 0, network_s = 0;
    double seconds() const { return std::max(memory_s, arithmetic_s) + network_s; }
    std::string limit() const;
  };
  Bound first_token;  // of a prompt of so many tokens, alone
  Bound step;         // of one token for each of the batch, at its context
  double tokens_per_s = 0;
};

/// Errors: as of model::check_shard; too_large (the weights do not fit), invalid_argument (context, prompt).
Result<Plan> make_plan(const model::ModelConfig& config, const PlanOptions& options, const MachineSpec& machine);

}  // namespace keye::engine
