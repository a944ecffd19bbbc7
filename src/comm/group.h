// What the ranks of one model say to each other: sums of activations, steps to take, parts of a result.
//
// Ranks are processes, as many on each node as on the others: rank = node * locals + local. Those of a node share
// memory, nodes are joined by TCP. All ranks call the same collectives in the same order; one that a rank leaves out is
// found as a peer that does not answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>

namespace keye::comm {

/// Where a rank stands.
struct Place {
  int rank = 0;
  int size = 1;   // ranks, a multiple of nodes
  int nodes = 1;  // machines

  int locals() const { return size / nodes; }
  int node() const { return rank / locals(); }
  int local() const { return rank % locals(); }
};

/// A rank is gone, does not answer, or gave up. what(): one line that names it and what happened. Nothing can be
/// computed any more; every rank gets one.
struct PeerLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Runs body(item, worker) for every item, on whatever threads there are.
using ForEach = std::function<void(int64_t items, const std::function<void(int64_t item, int worker)>& body)>;

/// One rank's end. Used by one thread at a time. Every call may throw PeerLost.
class Group {
 public:
  virtual ~Group() = default;
  virtual const Place& place() const = 0;
  /// Threads for large sums; without, the caller's alone.
  virtual void use_threads(ForEach for_each) = 0;

  /// Room for this rank's terms of the next sum: at most as many as the group was made for, at 64 bytes, undefined
  /// contents. It is the group's own after that sum.
  virtual std::span<float> terms(int64_t count) = 0;
  /// out[i] += the sum over all ranks of terms()[i], for out.size() terms, which are added in pairs: t0 + t1, t2 + t3,
  /// ..., then the sums of those in pairs, a single one passing on as it is. So the bits are the same on all ranks, for
  /// each i whatever out.size() is, and however ranks are spread over nodes where each has a power of two of them.
  virtual void add_sum(std::span<float> out) = 0;

  /// Rank 0 takes all ranks' parts, its own included, rank after rank and each from its beginning to its end, in pieces
  /// if it is large; take is called there alone. The others wait until theirs is taken. Sizes may differ, and be 0.
  using Take = std::function<void(int rank, size_t offset, std::span<const std::byte> piece)>;
  virtual void gather(std::span<const std::byte> part, const Take& take) = 0;

  /// Rank 0: a message for all others, of any size below 4 GiB. Returns when it may be overwritten.
  virtual void send(std::span<const std::byte> message) = 0;
  /// The others: the next message, valid until the call after. Waits for as long as rank 0 lives.
  virtual std::span<const std::byte> receive() = 0;

  /// Returns when all ranks have called it, however long that takes while all live: loading takes one rank minutes more
  /// than another.
  virtual void meet() = 0;

  /// Rank 0, in place of the next collective (add_sum or gather) that the others are about to call: that one throws
  /// LoopInterrupted on all of them, and nothing else has changed.
  virtual void abandon() = 0;
};

}  // namespace keye::comm
