// A rank of `keye serve` that does what rank 0 says.
#pragma once

#include <memory>

#include "cli/rank_flags.h"
#include "cli/serve_flags.h"
#include "engine/load.h"
#include "server/server.h"

namespace keye::cli {

struct LoadedPart {
  engine::LoadedModel loaded;
  int64_t kv_tokens = 0;  // that the KV cache holds, on each of the ranks
};
/// What this process serves; `process` is null for a model in one process. Errors: as of loading, of which the other
/// ranks have been told; unavailable (one of them is lost).
Result<LoadedPart> load_part(const ServeFlags& flags, const Path& folder, RankProcess* process);

/// Starts this node's ranks and meets the other nodes'. Errors: as of start_node(), and what of the model cannot be
/// split so.
Result<std::unique_ptr<RankProcess>> start_serving_ranks(const ServeFlags& flags, const Path& folder,
                                                         std::vector<std::string> command, std::function<void()> lost);

/// A rank other than 0: loads its part and follows, until rank 0 ends. `server` says on /health that it is there; null
/// on ranks that have none. Errors: as of load_part().
Result<int> serve_part(const ServeFlags& flags, const Path& folder, RankProcess& process, server::Server* server);

}  // namespace keye::cli
