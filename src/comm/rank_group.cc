#include "comm/rank_group.h"

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/thread_pool.h"

namespace keye::comm {
namespace {

/// Sums of so many terms at most are added by every rank for itself; larger ones are split among them.
constexpr int64_t kWholeTerms = 16384;
/// What one thread adds at once.
constexpr int64_t kBlock = 256;
constexpr int64_t kItemTerms = 8192;
constexpr int kRanksMax = 256;

constexpr int kYields = 200;
constexpr int kChecksEvery = 64;
constexpr std::chrono::microseconds kSleep{20'000};
constexpr std::chrono::microseconds kLongSleep{100'000};
constexpr int kPollMs = 100;
/// How long to wait for a better reason than a broken link: whoever watches the process knows more.
constexpr std::chrono::milliseconds kReasonTime{500};

// Shares of the timeout: who waits for the one who is missing must be the first to lose patience, not who waits for
// the waiting one.
constexpr double kNodePatience = 0.6;
constexpr double kLinkPatience = 0.75;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// to[i] = or += the sum of all sources' i-th, in pairs (group.h), for at most kBlock of them.
void add_block(std::span<const float* const> sources, int64_t at, int64_t count, float* to, bool accumulate) {
  if (sources.size() == 2) {
    const float* a = sources[0] + at;
    const float* b = sources[1] + at;
    if (accumulate) {
      for (int64_t i = 0; i < count; ++i) to[i] += a[i] + b[i];
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
    }
    return;
  }
  float sums[kRanksMax / 2 + 1][kBlock];
  const float* level[kRanksMax];
  size_t width = sources.size();
  for (size_t i = 0; i < width; ++i) level[i] = sources[i] + at;
  while (width > 1) {
    for (size_t pair = 0; pair < width / 2; ++pair) {
      // In place: a pair's sum is written behind what it is read from.
      const float* a = level[2 * pair];
      const float* b = level[2 * pair + 1];
      for (int64_t i = 0; i < count; ++i) sums[pair][i] = a[i] + b[i];
      level[pair] = sums[pair];
    }
    if (width % 2 != 0) level[width / 2] = level[width - 1];
    width = (width + 1) / 2;
  }
  const float* sum = level[0];
  if (accumulate) {
    for (int64_t i = 0; i < count; ++i) to[i] += sum[i];
  } else if (to != sum) {
    for (int64_t i = 0; i < count; ++i) to[i] = sum[i];
  }
}

std::span<const std::byte> bytes_of(const float* data, int64_t count) {
  return std::as_bytes(std::span(data, static_cast<size_t>(count)));
}

/// Parts of a sum that the ranks of a node add: whole cache lines.
int64_t segment_begin(int64_t count, int local, int locals) {
  constexpr int64_t kLine = 16;
  const int64_t lines = (count + kLine - 1) / kLine;
  return std::min(count, lines * local / locals * kLine);
}

}  // namespace

std::string name_of(const Place& place, int rank) {
  const Place there{.rank = rank, .size = place.size, .nodes = place.nodes};
  return place.nodes == 1 ? fmt::format("rank {}", rank) : fmt::format("rank {} (node {})", rank, there.node());
}

RankGroup::RankGroup(Options options)
    : place_(options.place),
      timeout_(options.timeout),
      memory_(std::move(options.memory)),
      context_(std::move(options.context)),
      on_loss_(std::move(options.on_loss)),
      taken_(static_cast<size_t>(place_.locals())) {
  KEYE_CHECK(place_.size <= kRanksMax && static_cast<int>(options.links.size()) == place_.nodes - 1,
             "{} ranks, {} nodes, {} links", place_.size, place_.nodes, options.links.size());
  const int locals = place_.locals();
  for (Link& link : options.links) {
    const int index = static_cast<int>(peers_.size());
    const int node = index + (index >= place_.node() ? 1 : 0);
    peers_.push_back({.link = std::move(link), .rank = node * locals + place_.local(), .terms = {}});
    peers_.back().terms.resize(static_cast<size_t>(memory_->terms_max() / locals + 16));
  }
  // Who spins on a processor that another rank needs is in its way.
  spins_ = locals <= ::sysconf(_SC_NPROCESSORS_ONLN) ? 4000 : 50;
}

RankGroup::Deadline RankGroup::deadline(double share_of_timeout) const {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout_ * share_of_timeout);
}

void RankGroup::check_lost() const {
  if (memory_->is_lost()) throw PeerLost(memory_->loss());
}

void RankGroup::lose(const std::string& why) {
  const Clock::time_point end = Clock::now() + std::min<Clock::duration>(kReasonTime, timeout_ / 8);
  while (!memory_->is_lost() && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  if (!memory_->is_lost()) {
    if (on_loss_) on_loss_(why);
    memory_->lose(why);
  }
  throw PeerLost(memory_->loss());
}

// -- waiting ------------------------------------------------------------------

template <class Done, class Blame>
void RankGroup::wait(const Done& done, const Deadline& until, const Blame& blame) {
  for (int i = 0; i < spins_; ++i) {
    if (done()) return;
    relax();
    if (i % kChecksEvery == 0) check_lost();
  }
  for (int i = 0; i < kYields; ++i) {
    if (done()) return;
    ::sched_yield();
    check_lost();
  }
  while (!done()) {
    check_lost();
    if (until && Clock::now() > *until) {
      lose(fmt::format("{} did not come to a collective for {:.1f} s", name_of(place_, blame()),
                       std::chrono::duration<double>(timeout_).count() * kNodePatience));
    }
    memory_->sleep(done, until ? kSleep : kLongSleep);
  }
}

void RankGroup::publish(uint64_t stage) {
  memory_->cell(place_.local()).stage.store(stage);
  memory_->notify();
}

void RankGroup::wait_for_stage(uint64_t stage, const Deadline& until) {
  int missing = 0;
  const auto all_are_there = [&] {
    while (missing < place_.locals() && memory_->cell(missing).stage.load() >= stage) ++missing;
    return missing == place_.locals();
  };
  wait(all_are_there, until, [&] { return rank_of(missing); });
}

// -- links --------------------------------------------------------------------

template <class Done>
void RankGroup::pump(std::span<Peer*> peers, const Deadline& until, const Done& done) {
  std::array<pollfd, kRanksMax> waits;
  while (true) {
    bool moved = false;
    for (Peer* peer : peers) {
      const auto result = peer->link.advance();
      if (!result) {
        lose(fmt::format("the link to {} broke: {}", name_of(place_, peer->rank), result.error().to_string()));
      }
      moved |= *result;
    }
    if (done()) return;
    if (moved) continue;
    check_lost();
    if (until && Clock::now() > *until) {
      int silent = peers[0]->rank;
      for (const Peer* peer : peers) {
        if (peer->link.waits_for().events != 0) silent = peer->rank;
      }
      lose(fmt::format("{} did not answer for {:.1f} s", name_of(place_, silent),
                       std::chrono::duration<double>(timeout_).count() * kLinkPatience));
    }
    for (size_t i = 0; i < peers.size(); ++i) waits[i] = peers[i]->link.waits_for();
    ::poll(waits.data(), peers.size(), kPollMs);
  }
}

void RankGroup::send_to(Peer& peer, const FrameHeader& header, std::span<const std::byte> payload,
                        const Deadline& until) {
  Peer* only = &peer;
  peer.link.send(header, payload);
  pump({&only, 1}, until, [&] { return peer.link.is_sent(); });
}

FrameHeader RankGroup::receive_header(Peer& peer, const Deadline& until) {
  Peer* only = &peer;
  peer.link.expect_header();
  pump({&only, 1}, until, [&] { return peer.link.header().has_value(); });
  return *peer.link.header();
}

void RankGroup::receive_payload(Peer& peer, std::span<std::byte> to, const Deadline& until) {
  Peer* only = &peer;
  peer.link.expect_payload(to);
  pump({&only, 1}, until, [&] { return peer.link.has_payload(); });
}

void RankGroup::confused(const Peer& peer, const FrameHeader& header) {
  lose(fmt::format("{} is out of step: kind {} of collective {} in collective {}", name_of(place_, peer.rank),
                   static_cast<int>(header.kind), header.collective, collective_));
}

// -- sums ---------------------------------------------------------------------

std::span<float> RankGroup::terms(int64_t count) {
  KEYE_CHECK(0 <= count && count <= memory_->terms_max(), "{} terms of {}", count, memory_->terms_max());
  return {memory_->terms(place_.local(), static_cast<int>(sums_ & 1)), static_cast<size_t>(count)};
}

void RankGroup::sum_terms(std::span<const float* const> sources, float* out, int64_t count, bool accumulate) {
  const auto add = [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kBlock) {
      add_block(sources, at, std::min(kBlock, end - at), out + at, accumulate);
    }
  };
  if (count <= kItemTerms || !for_each_) return add(0, count);
  const int64_t items = (count + kItemTerms - 1) / kItemTerms;
  for_each_(items, [&](int64_t item, int) { add(item * kItemTerms, std::min(count, (item + 1) * kItemTerms)); });
}

void RankGroup::add_sum(std::span<float> out) {
  const uint64_t stage = 4 * ++collective_;
  // A rank that is one collective behind still looks at the room of the last one.
  const size_t parity = collective_ & 1;
  memory_->cell(place_.local()).room[parity] = static_cast<int>(sums_++ & 1);
  const auto count = static_cast<int64_t>(out.size());
  const int locals = place_.locals();
  const Deadline until = deadline(kNodePatience);
  publish(stage + 1);
  wait_for_stage(stage + 1, until);
  if (is_abandoned()) {
    abandon_links();
    leave_abandoned();
  }
  std::array<const float*, kRanksMax> all{};
  for (int local = 0; local < locals; ++local) {
    all[static_cast<size_t>(local)] = memory_->terms(local, memory_->cell(local).room[parity]);
  }
  const std::span<const float* const> sources(all.data(), static_cast<size_t>(locals));
  if (peers_.empty() && count <= kWholeTerms) return sum_terms(sources, out.data(), count, true);

  const int64_t begin = segment_begin(count, place_.local(), locals);
  const int64_t end = segment_begin(count, place_.local() + 1, locals);
  std::array<const float*, kRanksMax> shifted{};
  for (size_t i = 0; i < sources.size(); ++i) shifted[i] = sources[i] + begin;
  // Nobody else reads this segment of this rank's own terms.
  float* own = memory_->terms(place_.local(), memory_->cell(place_.local()).room[parity]) + begin;
  if (locals > 1) sum_terms({shifted.data(), sources.size()}, own, end - begin, false);
  if (!peers_.empty() && !exchange_segments(own, end - begin)) throw LoopInterrupted{};
  publish(stage + 2);
  wait_for_stage(stage + 2, peers_.empty() ? until : deadline(kLinkPatience));
  for (int local = 0; local < locals; ++local) {
    const int64_t first = segment_begin(count, local, locals);
    const float* summed = sources[static_cast<size_t>(local)] + first;
    sum_terms({&summed, 1}, out.data() + first, segment_begin(count, local + 1, locals) - first, true);
  }
}

bool RankGroup::exchange_segments(float* segment, int64_t count) {
  std::array<Peer*, kRanksMax> all{};
  std::array<bool, kRanksMax> is_here{};
  for (size_t i = 0; i < peers_.size(); ++i) {
    all[i] = &peers_[i];
    peers_[i].link.send({.kind = FrameKind::segment, .collective = collective_}, bytes_of(segment, count));
    peers_[i].link.expect_header();
  }
  bool is_abandoned = false;
  const auto all_are_here = [&] {
    bool all_here = true;
    for (size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = peers_[i];
      if (!is_here[i] && peer.link.header()) {
        const FrameHeader& header = *peer.link.header();
        const bool is_sum = header.kind == FrameKind::segment && header.bytes == bytes_of(segment, count).size();
        if (header.collective != collective_ || !(is_sum || header.kind == FrameKind::abandon)) confused(peer, header);
        is_abandoned |= !is_sum;
        is_here[i] = true;
        peer.link.expect_payload(
            std::as_writable_bytes(std::span(peer.terms)).first(static_cast<size_t>(header.bytes)));
      }
      all_here = all_here && is_here[i] && peer.link.has_payload() && peer.link.is_sent();
    }
    return all_here;
  };
  const Deadline until = deadline(kLinkPatience);
  pump({all.data(), peers_.size()}, until, all_are_here);
  if (is_abandoned) return false;
  std::array<const float*, kRanksMax> nodes{};
  size_t next = 0;
  for (int node = 0; node < place_.nodes; ++node) {
    nodes[static_cast<size_t>(node)] = node == place_.node() ? segment : peers_[next++].terms.data();
  }
  sum_terms({nodes.data(), static_cast<size_t>(place_.nodes)}, segment, count, false);
  return true;
}

void RankGroup::abandon() {
  KEYE_CHECK(place_.rank == 0, "rank {} abandons", place_.rank);
  const uint64_t stage = 4 * ++collective_;
  memory_->common().abandoned.store(collective_);
  publish(stage + 2);
  // Not before all have seen it may the next one be abandoned.
  wait_for_stage(stage + 2, deadline(kNodePatience));
  abandon_links();
}

bool RankGroup::is_abandoned() const { return memory_->common().abandoned.load() == collective_; }

/// At the first stage of a collective.
void RankGroup::leave_abandoned() {
  publish(4 * collective_ + 2);
  throw LoopInterrupted{};
}

void RankGroup::abandon_links() {
  for (Peer& peer : peers_) {
    send_to(peer, {.kind = FrameKind::abandon, .collective = collective_}, {}, deadline(kLinkPatience));
  }
  for (Peer& peer : peers_) {
    while (true) {
      const FrameHeader header = receive_header(peer, deadline(kLinkPatience));
      const bool is_segment = header.kind == FrameKind::segment;
      if (header.collective != collective_ || (!is_segment && header.kind != FrameKind::piece)) confused(peer, header);
      piece_.resize(header.bytes);
      receive_payload(peer, piece_, deadline(kLinkPatience));
      if (is_segment ||
          (header.is_last != 0 && header.rank + 1 == static_cast<uint64_t>(peer.rank + place_.locals()))) {
        break;
      }
    }
  }
}

// -- gathering ----------------------------------------------------------------

void RankGroup::gather(std::span<const std::byte> part, const Take& take) { run_gather(part, take, false); }

void RankGroup::meet() {
  run_gather(
      {}, [](int, size_t, std::span<const std::byte>) {}, true);
}

void RankGroup::run_gather(std::span<const std::byte> part, const Take& take, bool patient) {
  const uint64_t stage = 4 * ++collective_;
  const auto until = [&](double share) { return patient ? Deadline() : deadline(share); };
  publish(stage + 1);
  wait_for_stage(stage + 1, until(kNodePatience));
  SharedMemory::Common& common = memory_->common();
  if (is_abandoned()) leave_abandoned();
  if (!is_first()) {
    put_part(part, until(kNodePatience));
    wait([&] { return common.settled.load() >= collective_; }, until(kLinkPatience), [&] { return 0; });
    if (is_abandoned()) throw LoopInterrupted{};
    return;
  }
  if (place_.rank == 0) {
    take(0, 0, part);
    for (int local = 1; local < place_.locals(); ++local) {
      size_t offset = 0;
      take_part(local, until(kNodePatience), [&](std::span<const std::byte> piece, bool) {
        take(local, offset, piece);
        offset += piece.size();
      });
    }
    gather_links(take, until(kLinkPatience));
    for (Peer& peer : peers_) {
      send_to(peer, {.kind = FrameKind::settled, .collective = collective_}, {}, until(kLinkPatience));
    }
  } else {
    Peer& leader = peers_[0];
    const auto forward = [&](int local, std::span<const std::byte> piece, bool is_last) {
      send_to(leader,
              {.kind = FrameKind::piece,
               .is_last = static_cast<uint16_t>(is_last ? 1 : 0),
               .collective = collective_,
               .rank = static_cast<uint64_t>(rank_of(local))},
              piece, until(kLinkPatience));
    };
    for (size_t offset = 0; offset == 0 || offset < part.size(); offset += kPieceBytes) {
      const auto piece = part.subspan(offset, std::min(kPieceBytes, part.size() - offset));
      forward(0, piece, offset + piece.size() == part.size());
    }
    for (int local = 1; local < place_.locals(); ++local) {
      take_part(local, until(kNodePatience),
                [&](std::span<const std::byte> piece, bool is_last) { forward(local, piece, is_last); });
    }
    const FrameHeader verdict = receive_header(leader, until(kLinkPatience));
    const bool is_abandoned = verdict.kind == FrameKind::abandon;
    if (verdict.collective != collective_ || !(is_abandoned || verdict.kind == FrameKind::settled)) {
      confused(leader, verdict);
    }
    if (is_abandoned) common.abandoned.store(collective_);
  }
  common.settled.store(collective_);
  memory_->notify();
  if (is_abandoned()) throw LoopInterrupted{};
}

/// This rank's part, piece by piece, for the first of the node to take.
void RankGroup::put_part(std::span<const std::byte> part, const Deadline& until) {
  SharedMemory::Cell& cell = memory_->cell(place_.local());
  const auto is_free = [&] { return cell.taken.load() == put_; };
  for (size_t offset = 0; offset == 0 || offset < part.size(); offset += kPieceBytes) {
    wait(is_free, until, [&] { return rank_of(0); });
    const auto piece = part.subspan(offset, std::min(kPieceBytes, part.size() - offset));
    if (!piece.empty()) std::memcpy(memory_->mailbox(place_.local()), piece.data(), piece.size());
    cell.piece_bytes = piece.size();
    cell.is_last = offset + piece.size() == part.size() ? 1 : 0;
    cell.put.store(++put_);
    memory_->notify();
  }
}

void RankGroup::take_part(int local, const Deadline& until,
                          const std::function<void(std::span<const std::byte>, bool)>& take) {
  SharedMemory::Cell& cell = memory_->cell(local);
  uint64_t& taken = taken_[static_cast<size_t>(local)];
  for (bool is_last = false; !is_last;) {
    wait([&] { return cell.put.load() > taken; }, until, [&] { return rank_of(local); });
    is_last = cell.is_last != 0;
    take({memory_->mailbox(local), std::min<size_t>(cell.piece_bytes, kPieceBytes)}, is_last);
    cell.taken.store(++taken);
    memory_->notify();
  }
}

/// Rank 0: the parts of the other nodes' ranks, node after node.
void RankGroup::gather_links(const Take& take, const Deadline& until) {
  for (Peer& peer : peers_) {
    for (int local = 0; local < place_.locals(); ++local) {
      size_t offset = 0;
      for (bool is_last = false; !is_last;) {
        const FrameHeader header = receive_header(peer, until);
        const int rank = peer.rank + local;
        if (header.kind != FrameKind::piece || header.collective != collective_ || header.bytes > kPieceBytes ||
            header.rank != static_cast<uint64_t>(rank)) {
          confused(peer, header);
        }
        piece_.resize(header.bytes);
        receive_payload(peer, piece_, until);
        take(rank, offset, piece_);
        offset += piece_.size();
        is_last = header.is_last != 0;
      }
    }
  }
}

// -- messages -----------------------------------------------------------------

void RankGroup::send(std::span<const std::byte> message) {
  KEYE_CHECK(place_.rank == 0, "rank {} sends", place_.rank);
  std::array<Peer*, kRanksMax> all{};
  for (size_t i = 0; i < peers_.size(); ++i) {
    all[i] = &peers_[i];
    peers_[i].link.send({.kind = FrameKind::message}, message);
  }
  tell_locals(message);
  if (peers_.empty()) return;
  pump({all.data(), peers_.size()}, deadline(kLinkPatience),
       [&] { return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.link.is_sent(); }); });
}

void RankGroup::tell_locals(std::span<const std::byte> message) {
  const int locals = place_.locals();
  if (locals == 1) return;
  SharedMemory::Common& common = memory_->common();
  const Deadline until = deadline(kNodePatience);
  for (size_t offset = 0; offset == 0 || offset < message.size(); offset += kPieceBytes) {
    int missing = 1;
    const auto is_heard = [&] {
      while (missing < locals && memory_->cell(missing).heard.load() == said_) ++missing;
      return missing == locals;
    };
    wait(is_heard, until, [&] { return rank_of(missing); });
    const auto piece = message.subspan(offset, std::min(kPieceBytes, message.size() - offset));
    if (!piece.empty()) std::memcpy(memory_->message(), piece.data(), piece.size());
    common.message_bytes = message.size();
    common.offset = offset;
    common.piece_bytes = piece.size();
    common.said.store(++said_);
    memory_->notify();
  }
}

std::span<const std::byte> RankGroup::receive() {
  KEYE_CHECK(place_.rank != 0, "rank 0 receives");
  if (!is_first()) {
    hear_message();
    return heard_;
  }
  Peer& leader = peers_[0];
  const FrameHeader header = receive_header(leader, {});
  if (header.kind != FrameKind::message) confused(leader, header);
  heard_.resize(header.bytes);
  receive_payload(leader, heard_, deadline(kLinkPatience));
  tell_locals(heard_);
  return heard_;
}

void RankGroup::hear_message() {
  SharedMemory::Common& common = memory_->common();
  SharedMemory::Cell& cell = memory_->cell(place_.local());
  for (size_t heard = 0;;) {
    wait([&] { return common.said.load() > said_; }, heard == 0 ? Deadline() : deadline(kNodePatience),
         [&] { return rank_of(0); });
    heard_.resize(common.message_bytes);
    KEYE_CHECK(common.offset + common.piece_bytes <= heard_.size(), "a piece beyond its message");
    if (common.piece_bytes > 0) std::memcpy(heard_.data() + common.offset, memory_->message(), common.piece_bytes);
    heard = common.offset + common.piece_bytes;
    cell.heard.store(++said_);
    memory_->notify();
    if (heard == heard_.size()) return;
  }
}

}  // namespace keye::comm
