#include "cli/serve_part.h"

#include "base/log.h"
#include "cli/command.h"
#include "cli/model_flags.h"
#include "engine/memory_plan.h"
#include "engine/parallel_model.h"
#include "ops/cpu/isa.h"

namespace keye::cli {
namespace {

/// Ranks that compute differently may choose different experts.
Result<Agreed> agreed_values(const ServeFlags& flags, const Path& folder) {
  KEYE_TRY(const Digest digest, engine::folder_digest(folder));
  KEYE_TRY(const ops::Isa isa, ops::isa_from_name(flags.device.isa));
  return Agreed{{"version", KEYE_VERSION},
                {"model", digest.hex().substr(0, 16)},
                {"instruction set (--isa)", std::string(ops::isa_name(isa))},
                {"--dtype", std::string(dtype_name(flags.value_dtype()))},
                {"--sparse-attention", flags.attention.sparse},
                {"--indexer-dtype", flags.attention.indexer},
                {"--sparse-topk", std::to_string(flags.attention.topk)},
                {"--kv-cache-dtype", flags.attention.kv_cache},
                {"--max-running-requests", std::to_string(flags.max_running)},
                {"--chunked-prefill-size", std::to_string(flags.chunked_prefill)}};
}

/// What to load for this rank; `group` is null for a model in one process.
engine::LoadOptions load_options(const ServeFlags& flags, comm::Group* group) {
  const bool leads = group == nullptr || group->place().rank == 0;
  return {.dtype = flags.value_dtype(),
          .attention = flags.attention.options(flags.value_dtype()),
          .device = flags.device_options(),
          .step_tokens_max = flags.step_tokens(),
          .step_logits_max = flags.max_running,
          .shard = group == nullptr ? model::Shard{} : flags.ranks.shard(group->place()),
          .group = group,
          .progress = leads ? load_progress() : model::LoadProgress()};
}

Result<int64_t> kv_tokens(const ServeFlags& flags, model::Model& model, comm::Group* group) {
  const int64_t of_model = model.config().text.positions_max;
  const int64_t context = flags.context_length > 0 ? std::min(flags.context_length, of_model) : of_model;
  engine::MemoryPlan plan{
      .dtype = flags.value_dtype(), .fraction = flags.mem_fraction, .tokens_wanted = context * flags.max_running};
  if (group != nullptr) {
    plan.shard = flags.ranks.shard(group->place());
    plan.ranks_here = group->place().locals();
  }
  int64_t tokens = flags.max_total_tokens;
  if (tokens == 0) {
    auto planned = engine::plan_kv_tokens(model, plan);
    if (!planned) return Error{planned.error().code, planned.error().message + "; raise it", "--mem-fraction-static"};
    tokens = *planned;
  }
  return group == nullptr ? tokens : engine::least_of_all(*group, tokens);
}

}  // namespace

Result<LoadedPart> load_part(const ServeFlags& flags, const Path& folder, RankProcess* process) {
  comm::Group* const group = process == nullptr ? nullptr : &process->group();
  const auto load = [&]() -> Result<LoadedPart> {
    LoadedPart part;
    KEYE_TRY(part.loaded, engine::load(folder, load_options(flags, group)));
    KEYE_TRY(part.kv_tokens, kv_tokens(flags, *part.loaded.model, group));
    return part;
  };
  try {
    auto part = load();
    if (!part && process != nullptr) process->give_up(part.error().to_string());
    return part;
  } catch (const comm::PeerLost& lost) {
    return make_error(ErrorCode::unavailable, "", "{}", lost.what());
  }
}

Result<std::unique_ptr<RankProcess>> start_serving_ranks(const ServeFlags& flags, const Path& folder,
                                                         std::vector<std::string> command, std::function<void()> lost) {
  KEYE_TRY(const engine::FolderConfig config, engine::read_folder_config(folder));
  KEYE_TRY_VOID(model::check_shard(config.model, flags.ranks.shard(flags.ranks.first_place())));
  KEYE_TRY(Agreed agreed, agreed_values(flags, folder));
  return start_node(flags.ranks, config.model, flags.step_tokens(), std::move(agreed), std::move(command),
                    std::move(lost));
}

Result<int> serve_part(const ServeFlags& flags, const Path& folder, RankProcess& process, server::Server* server) {
  KEYE_TRY(const LoadedPart part, load_part(flags, folder, &process));
  try {
    if (server != nullptr) server->follow(fmt::format("node 0 ({})", flags.ranks.init_address));
    engine::follow(*part.loaded.model, process.group());
    return kExitOk;
  } catch (const comm::PeerLost& lost) {
    if (process.loss().empty()) process.give_up(lost.what());
    return kExitFailed;
  }
}

}  // namespace keye::cli
