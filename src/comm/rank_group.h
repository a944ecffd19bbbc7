// The group of processes: shared memory inside a node, links between nodes.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/group.h"
#include "comm/link.h"
#include "comm/shared_memory.h"

namespace keye::comm {

/// "rank 3 (node 1)"
std::string name_of(const Place& place, int rank);

/// A collective of number c has stages; a rank at stage s has written 4 c + s into its cell. Nobody leaves a collective
/// before all ranks of its node have come to it, so that all leave an abandoned one at the same place; and what one of
/// them reads of the others' memory is not written before all are in the collective after.
class RankGroup final : public Group {
 public:
  struct Options {
    Place place;
    std::chrono::milliseconds timeout{30000};
    std::shared_ptr<SharedMemory> memory;
    /// Of the links; null with one node.
    std::shared_ptr<const LinkContext> context;
    /// One for each other node, in their order: to the rank with the same place there.
    std::vector<Link> links;
    /// Told when this rank finds that another is lost, before PeerLost is thrown: to tell the rest.
    std::function<void(const std::string& loss)> on_loss;
  };
  explicit RankGroup(Options options);

  const Place& place() const override { return place_; }
  void use_threads(ForEach for_each) override { for_each_ = std::move(for_each); }
  std::span<float> terms(int64_t count) override;
  void add_sum(std::span<float> out) override;
  void gather(std::span<const std::byte> part, const Take& take) override;
  void send(std::span<const std::byte> message) override;
  std::span<const std::byte> receive() override;
  void meet() override;
  void abandon() override;

 private:
  using Clock = std::chrono::steady_clock;
  /// Until when somebody is waited for; without a time, for as long as all live.
  using Deadline = std::optional<Clock::time_point>;
  struct Peer {
    Link link;
    int rank = 0;
    std::vector<float> terms;  // the last segment from there
  };

  bool is_first() const { return place_.local() == 0; }
  int rank_of(int local) const { return place_.node() * place_.locals() + local; }
  Deadline deadline(double share_of_timeout) const;
  [[noreturn]] void lose(const std::string& why);
  void check_lost() const;

  void publish(uint64_t stage);
  /// Until all ranks of this node have come to this stage.
  void wait_for_stage(uint64_t stage, const Deadline& until);
  template <class Done, class Blame>
  void wait(const Done& done, const Deadline& until, const Blame& blame);

  /// Moves what the links have under way until done(); one of `peers` is to blame for delays.
  template <class Done>
  void pump(std::span<Peer*> peers, const Deadline& until, const Done& done);
  void send_to(Peer& peer, const FrameHeader& header, std::span<const std::byte> payload, const Deadline& until);
  FrameHeader receive_header(Peer& peer, const Deadline& until);
  void receive_payload(Peer& peer, std::span<std::byte> to, const Deadline& until);
  [[noreturn]] void confused(const Peer& peer, const FrameHeader& header);

  /// Sums this rank's segment over nodes; false: the collective was abandoned.
  bool exchange_segments(float* segment, int64_t count);
  bool is_abandoned() const;
  [[noreturn]] void leave_abandoned();
  /// Says so to the peers, and takes what they send for this collective.
  void abandon_links();
  void sum_terms(std::span<const float* const> sources, float* out, int64_t count, bool accumulate);
  void run_gather(std::span<const std::byte> part, const Take& take, bool patient);
  void put_part(std::span<const std::byte> part, const Deadline& until);
  void take_part(int local, const Deadline& until, const std::function<void(std::span<const std::byte>, bool)>& take);
  void gather_links(const Take& take, const Deadline& until);
  void tell_locals(std::span<const std::byte> message);
  void hear_message();

  Place place_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<SharedMemory> memory_;
  std::shared_ptr<const LinkContext> context_;  // outlives the links
  std::vector<Peer> peers_;                     // of the other nodes, in their order
  std::function<void(const std::string&)> on_loss_;
  ForEach for_each_;
  int spins_;
  uint64_t collective_ = 0;
  uint64_t sums_ = 0;
  uint64_t put_ = 0, said_ = 0;
  std::vector<uint64_t> taken_;   // of each local rank
  std::vector<std::byte> heard_;  // the last message
  std::vector<std::byte> piece_;  // of a gathering, from a link
};

}  // namespace keye::comm
