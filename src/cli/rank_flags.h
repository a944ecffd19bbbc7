// Flags of a model that is spread over several ranks, and how a process takes its part.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/ranks.h"
#include "model/config.h"
#include "model/shard.h"

namespace keye::cli {

/// SGLang's spelling, where it has them.
struct RankFlags {
  int tp_size = 1, nodes = 1, node_rank = 0, ep_size = 1;
  std::string init_address, token_file;
  double timeout_s = 30;

  void add(CLI::App& app);
  /// What makes sense without other machines: --tp-size and --ep-size alone.
  void add_of_one_node(CLI::App& app);
  /// Errors: values that contradict each other ...
  Result<void> check() const;
  /// ... of ranks, nodes and groups alone.
  Result<void> check_split() const;
  bool is_spread() const { return tp_size > 1; }
  /// The secret of all nodes. Errors: invalid_argument (none, or too short), as of reading a file.
  Result<std::string> secret() const;
  comm::Place first_place() const { return {.rank = node_rank * (tp_size / nodes), .size = tp_size, .nodes = nodes}; }
  model::Shard shard(const comm::Place& place) const { return {place.rank, place.size, ep_size}; }
};

using Agreed = std::vector<std::pair<std::string, std::string>>;

/// This process's part of a run, and what happens at its end.
class RankProcess {
 public:
  /// `lost`: called once, on another thread, when a rank is lost and the program goes on for a moment: this one still
  /// has to tell its clients. Afterwards it is ended.
  RankProcess(std::unique_ptr<comm::Ranks> ranks, std::chrono::milliseconds timeout, std::function<void()> lost);

  comm::Group& group() { return ranks_->group(); }
  const comm::Place& place() { return group().place(); }
  /// Why this rank cannot go on: the others end with it.
  void give_up(const std::string& why) { ranks_->give_up(why); }
  /// Empty while the run goes on.
  std::string loss() const { return ranks_->loss(); }

 private:
  std::unique_ptr<comm::Ranks> ranks_;
};

/// The first rank of a node: meets the other nodes and starts this node's others as `keye rank COMMAND ARGUMENTS`.
/// `agreed`: what must be alike on all nodes besides the flags here. Errors: as of start_ranks().
Result<std::unique_ptr<RankProcess>> start_node(const RankFlags& flags, const model::ModelConfig& config,
                                                int64_t step_tokens, Agreed agreed, std::vector<std::string> command,
                                                std::function<void()> lost);
/// A further rank of a node, in that process. Errors: as of join_ranks().
Result<std::unique_ptr<RankProcess>> join_node(const RankFlags& flags, int channel);

}  // namespace keye::cli
