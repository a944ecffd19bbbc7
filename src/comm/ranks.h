// How the ranks of a run find each other, watch each other, and end together.
//
// On each node the program that the user starts is the node's first rank (local 0). It meets the other nodes' at an
// address of node 0, then starts this program again for each further rank of the node, joined to it by a socket pair
// and by shared memory. Control links form a star of stars: local ranks to their node's first, those to rank 0.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "comm/group.h"

namespace keye::comm {

/// Of the secret that nodes share.
inline constexpr size_t kTokenBytesMin = 16;

struct RanksOptions {
  Place place;               // of this process
  std::string init_address;  // HOST:PORT or [V6]:PORT of node 0, with more than one node
  /// A secret that all nodes share: links between nodes are TLS 1.3 with keys made of it, nothing else is let in.
  std::string token;
  /// A rank that is silent for so long is lost; all ranks end within it.
  std::chrono::milliseconds timeout{30000};
  /// How long to wait for the other nodes at the start.
  std::chrono::milliseconds meet_timeout{300000};
  /// What all nodes must have alike, by name: version, model, flags. Differences are refused with both values.
  std::vector<std::pair<std::string, std::string>> agreed;
  int64_t terms_max = 0;  // floats of the largest sum
  /// Arguments for this program as a further rank of this node, as the shell would give them, without its name:
  /// {"rank", ...}. `--channel N` is added: the descriptor that it must give to join().
  std::vector<std::string> rank_arguments;
};

/// This process's part of the run. Destroying it says goodbye: the others end without calling it a loss (rank 0 ends
/// the run, another rank's goodbye before rank 0's is a loss for the rest).
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual Group& group() = 0;
  /// Why the run is over, once it is; from any thread. Empty while it goes on, and after an orderly end.
  virtual std::string loss() const = 0;
  /// Called once from the watching thread when the run is over: with loss()'s line, or "" where rank 0 ended it. Set it
  /// before the first collective; calls at once where it is already over.
  virtual void on_end(std::function<void(const std::string& loss)> call) = 0;
  /// This rank cannot go on, for this reason: a loss for all.
  virtual void give_up(const std::string& why) = 0;
};

/// For the first rank of a node: meets the other nodes, starts the node's other ranks. Returns when all ranks of all
/// nodes are joined. Errors: invalid_argument (address, token missing or too short, place), unavailable (nobody there
/// in time; what differs at another node; a rank of that number is already there), io.
Result<std::unique_ptr<Ranks>> start_ranks(const RanksOptions& options);

/// For a further rank of a node, started by start_ranks(): `channel` is the descriptor that came with --channel.
/// Errors: invalid_argument (no such channel), unavailable (the first rank is gone), io.
Result<std::unique_ptr<Ranks>> join_ranks(int channel);

/// Ranks as threads of this process, for tests and benchmarks: one Group for each, over the same shared memory and
/// (nodes > 1) TCP on loopback as between processes.
std::vector<std::unique_ptr<Group>> make_local_groups(int size, int nodes, int64_t terms_max,
                                                      std::chrono::milliseconds timeout);

}  // namespace keye::comm
