// The memory that the ranks of a node share: terms of sums, mailboxes, and the counters by which they wait for each
// other. It is a file without a name, inherited by descriptor.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/descriptor.h"
#include "base/result.h"

namespace keye::comm {

/// Of messages and of parts that are gathered; larger ones go in pieces.
inline constexpr size_t kPieceBytes = size_t{1} << 20;

class SharedMemory {
 public:
  /// One rank's counters; each is written by one rank alone.
  struct Cell {
    alignas(64) std::atomic<uint64_t> stage{0};  // of the collective it is in: 4 * its number + stage
    std::array<int, 2> room{};                   // that its terms are in, in collectives of even and of odd numbers
    alignas(64) std::atomic<uint64_t> put{0};    // pieces that it has put into its mailbox
    uint64_t piece_bytes = 0;                    // of the piece there
    uint64_t is_last = 0;
    alignas(64) std::atomic<uint64_t> taken{0};  // pieces that the node's first rank has taken from there
    alignas(64) std::atomic<uint64_t> heard{0};  // pieces of messages that it has read
  };
  /// All ranks', written by the node's first one.
  struct Common {
    alignas(64) std::atomic<uint64_t> said{0};  // pieces of messages
    uint64_t message_bytes = 0, offset = 0, piece_bytes = 0;
    alignas(64) std::atomic<uint64_t> abandoned{0};  // the last collective that rank 0 abandoned
    alignas(64) std::atomic<uint64_t> settled{0};    // the last gathering that is over
  };

  /// New memory for so many ranks. Errors: io.
  static Result<std::shared_ptr<SharedMemory>> make(int locals, int64_t terms_max);
  /// The same, by the descriptor of another process. Errors: io, invalid_argument (it is not of that size).
  static Result<std::shared_ptr<SharedMemory>> open(Descriptor descriptor, int locals, int64_t terms_max);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int descriptor() const { return descriptor_.get(); }
  Common& common() { return *common_; }
  Cell& cell(int local) { return cells_[local]; }
  /// kPieceBytes each.
  std::byte* message() { return pieces_; }
  std::byte* mailbox(int local) { return pieces_ + static_cast<size_t>(local + 1) * kPieceBytes; }
  /// One of two rooms for terms.
  float* terms(int local, int room);
  int64_t terms_max() const { return terms_max_; }

  /// Why the run is over; empty while it goes on. The first reason stays.
  std::string loss() const;
  bool is_lost() const { return state_->is_lost.load(std::memory_order_acquire) != 0; }
  void lose(const std::string& why);

  /// After a counter was written (in sequentially consistent order): wakes who sleeps for it.
  void notify();
  /// Sleeps until notify(), at most so long, unless done() by then.
  template <class Done>
  void sleep(const Done& done, std::chrono::microseconds at_most) {
    state_->sleepers.fetch_add(1);
    const uint32_t seen = state_->wakes.load();
    if (!done() && !is_lost()) sleep_on(seen, at_most);
    state_->sleepers.fetch_sub(1);
  }

 private:
  struct State {
    std::atomic<uint32_t> is_lost{0}, is_losing{0};
    alignas(64) std::atomic<uint32_t> wakes{0};
    std::atomic<uint32_t> sleepers{0};
    alignas(64) char loss[1024] = {};
  };

  SharedMemory(Descriptor descriptor, int locals, int64_t terms_max);
  static size_t bytes_for(int locals, int64_t terms_max);
  bool map();
  void sleep_on(uint32_t seen, std::chrono::microseconds at_most);

  Descriptor descriptor_;
  int locals_;
  int64_t terms_max_;
  std::byte* data_ = nullptr;
  State* state_ = nullptr;
  Common* common_ = nullptr;
  Cell* cells_ = nullptr;
  std::byte* pieces_ = nullptr;
  std::byte* terms_ = nullptr;
};

}  // namespace keye::comm
