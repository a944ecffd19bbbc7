#include <cstdio>

#include "base/json.h"
#include "base/machine.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/rank_flags.h"
#include "engine/load.h"
#include "engine/plan.h"
#include "model/shapes.h"

namespace keye::cli {
namespace {

struct PlanFlags {
  std::string model, shape, gpu;
  std::string dtype = "bf16";
  AttentionFlags attention;
  RankFlags ranks;
  double memory_gb = 0, bandwidth_gb = 0, teraflops = 0, network_gbit = 0, latency_us = -1;
  int chunk = 512, running = 64;
  engine::PlanOptions plan;
  bool as_json = false;

  void add(CLI::App& app) {
    auto* folder = app.add_option("--model", model, "checkpoint folder, or its config.json alone");
    app.add_option("--shape", shape, fmt::format("named shape: {}", fmt::join(model::shape_names(), ", ")))
        ->excludes(folder);
    app.add_option("--dtype", dtype, "of what is not stored in e4m3")
        ->check(CLI::IsMember({"bf16", "f32"}))
        ->capture_default_str();
    attention.add(app);
    ranks.add_of_one_node(app);
    app.add_option("--nnodes", ranks.nodes, "machines")->check(CLI::PositiveNumber)->capture_default_str();
    app.add_option("--gpu", gpu, "h100, h800 or h200: a rank has one of them; what is given below counts instead");
    const auto number = [&](const char* flag, double& value, const char* about) {
      app.add_option(flag, value, about)->check(CLI::PositiveNumber);
    };
    number("--memory-gb", memory_gb, "of a rank");
    number("--memory-bandwidth", bandwidth_gb, "GB/s that a rank reads");
    number("--flops", teraflops, "TFLOP/s of a rank, in the dtype");
    number("--network", network_gbit, "Gbit/s of a node, each way");
    app.add_option("--network-latency", latency_us, "microseconds of a message between nodes")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--mem-fraction-static", plan.memory_fraction, "share of the memory for weights, activations and KV")
        ->check(CLI::Range(0.01, 0.99))
        ->capture_default_str();
    app.add_option("--context", plan.context, "tokens of a request (default: the model's)")->check(CLI::PositiveNumber);
    app.add_option("--prompt", plan.prompt, "tokens, for the time to the first token")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--batch", plan.batch, "replies together, for the bounds on speed")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--chunked-prefill-size", chunk, "tokens of prompts in one step")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--max-running-requests", running, "replies computed together")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_flag("--json", as_json, "print one JSON object");
  }
};

Result<model::ModelConfig> config_of(const PlanFlags& flags) {
  if (!flags.shape.empty()) return model::named_shape(flags.shape);
  const Path path = flags.model;
  if (std::filesystem::is_regular_file(path)) {
    KEYE_TRY(const Json json, read_json(path));
    return model::parse_config(json, path.string());
  }
  KEYE_TRY(auto config, engine::read_folder_config(path));
  return config.model;
}

Result<engine::MachineSpec> machine_of(const PlanFlags& flags) {
  engine::MachineSpec machine;
  if (!flags.gpu.empty()) {
    KEYE_TRY(machine, engine::gpu_spec(flags.gpu));
  }
  const auto set = [](double& to, double given, double unit) {
    if (given > 0) to = given * unit;
  };
  set(machine.memory_bytes, flags.memory_gb, 1e9);
  set(machine.read_bytes_per_s, flags.bandwidth_gb, 1e9);
  set(machine.flops, flags.teraflops, 1e12);
  set(machine.network_bytes_per_s, flags.network_gbit, 1e9 / 8);
  if (flags.latency_us >= 0) machine.network_latency_s = flags.latency_us * 1e-6;
  const auto need = [](double value, const char* flag) -> Result<void> {
    if (value > 0) return {};
    return make_error(ErrorCode::invalid_argument, flag, "is needed where there is no --gpu");
  };
  KEYE_TRY_VOID(need(machine.memory_bytes, "--memory-gb"));
  KEYE_TRY_VOID(need(machine.read_bytes_per_s, "--memory-bandwidth"));
  KEYE_TRY_VOID(need(machine.flops, "--flops"));
  if (flags.ranks.nodes > 1) KEYE_TRY_VOID(need(machine.network_bytes_per_s, "--network"));
  return machine;
}

OrderedJson to_json(const engine::Plan::Bound& bound) {
  return {{"seconds", bound.seconds()},
          {"memory_s", bound.memory_s},
          {"arithmetic_s", bound.arithmetic_s},
          {"network_s", bound.network_s},
          {"limit", bound.limit()}};
}

void print(const PlanFlags& flags, const model::ModelConfig& config, const engine::MachineSpec& machine,
           const engine::Plan& plan) {
  const double gb = 1e9;
  std::printf("%s, %d ranks on %d nodes, each rank %.0f GB, %.0f GB/s, %.0f TFLOP/s\n", config.architecture.c_str(),
              flags.ranks.tp_size, flags.ranks.nodes, machine.memory_bytes / gb, machine.read_bytes_per_s / gb,
              machine.flops / 1e12);
  std::printf("weights    %8.2f GB of each rank\n", plan.weights / gb);
  std::printf("workspace  %8.2f GB\n", plan.workspace / gb);
  std::printf("KV cache   %8.2f GB: %lld tokens of %.0f bytes\n", plan.kv_room / gb,
              static_cast<long long>(plan.kv_tokens), plan.kv_per_token);
  std::printf("context    %lld tokens at most; %lld requests of %lld tokens\n",
              static_cast<long long>(plan.context_max), static_cast<long long>(plan.batch_max),
              static_cast<long long>(flags.plan.context > 0 ? flags.plan.context : plan.context_max));
  if (flags.ranks.nodes > 1) {
    std::printf("network    %.0f bytes from a node for each token, %.0f more for each that is sampled\n",
                plan.wire_per_token, plan.wire_per_sample);
  }
  std::printf("first token of a prompt of %lld: %.3f s at least, by %s\n", static_cast<long long>(flags.plan.prompt),
              plan.first_token.seconds(), plan.first_token.limit().c_str());
  std::printf("batch %d: %.2f ms a step at least, %.0f tokens/s at most, by %s\n", flags.plan.batch,
              1e3 * plan.step.seconds(), plan.tokens_per_s, plan.step.limit().c_str());
}

Result<int> make(PlanFlags& flags) {
  KEYE_TRY_VOID(flags.ranks.check_split());
  KEYE_TRY(const auto config, config_of(flags));
  KEYE_TRY(const auto machine, machine_of(flags));
  const DType dtype = flags.dtype == "f32" ? DType::f32 : DType::bf16;
  flags.plan.model = {.dtype = dtype,
                      .attention = flags.attention.options(dtype),
                      .step_tokens_max = std::clamp(std::max(flags.chunk, flags.running), 64, 8192),
                      .step_logits_max = flags.running,
                      .shard = flags.ranks.shard({.rank = 0, .size = flags.ranks.tp_size, .nodes = flags.ranks.nodes})};
  flags.plan.nodes = flags.ranks.nodes;
  KEYE_TRY(const auto plan, engine::make_plan(config, flags.plan, machine));
  if (!flags.as_json) {
    print(flags, config, machine, plan);
    return kExitOk;
  }
  const OrderedJson json = {{"weights_bytes", plan.weights},
                            {"workspace_bytes", plan.workspace},
                            {"kv_bytes_per_token", plan.kv_per_token},
                            {"kv_tokens", plan.kv_tokens},
                            {"context_max", plan.context_max},
                            {"batch_max", plan.batch_max},
                            {"wire_bytes_per_token", plan.wire_per_token},
                            {"wire_bytes_per_sample", plan.wire_per_sample},
                            {"first_token", to_json(plan.first_token)},
                            {"step", to_json(plan.step)},
                            {"tokens_per_s", plan.tokens_per_s}};
  KEYE_TRY_VOID(write_stdout(json.dump(2) + "\n"));
  return kExitOk;
}

}  // namespace

int cmd_plan(int argc, char** argv) {
  CLI::App app("Says what a model needs of machines that are not here: memory, network, and bounds on its speed",
               "plan");
  PlanFlags flags;
  flags.add(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (flags.model.empty() == flags.shape.empty()) return usage_error("plan", "give one of --model and --shape");
  const auto code = make(flags);
  return code ? *code : report("plan", code.error());
}

}  // namespace keye::cli
