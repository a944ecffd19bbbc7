// Who is there, and who is not any more: a thread of each rank that hears of the ranks next to it in a star of stars -
// rank 0, the first ranks of the other nodes, the further ranks of each node - and passes on why a run is over.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/group.h"
#include "comm/link.h"
#include "comm/shared_memory.h"

namespace keye::comm {

class Watch {
 public:
  /// A rank next to this one.
  struct Neighbour {
    Link link;
    int rank = 0;
    pid_t child = -1;  // if it is a process of this one
  };

  Watch(const Place& place, std::chrono::milliseconds timeout, std::shared_ptr<SharedMemory> memory,
        std::vector<Neighbour> neighbours);
  /// Rank 0: says goodbye. Others: wait for rank 0's. Children have a moment to end, and are ended.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// From any thread: the run is over, for this reason, unless it is already.
  void report(const std::string& loss);
  void on_end(std::function<void(const std::string& loss)> call);

 private:
  using Clock = std::chrono::steady_clock;
  struct Watched {
    explicit Watched(Neighbour of) : neighbour(std::move(of)) { neighbour.link.expect_header(); }

    Neighbour neighbour;
    bool is_up = true;
    Clock::time_point heard = Clock::now();
    std::deque<std::pair<FrameKind, std::string>> unsent;
    std::string sending;
    std::string text;  // of the frame being read
    bool reads_text = false;
  };

  void run();
  void wait_for_news();
  void hear(Watched& from);
  void understand(Watched& from, FrameKind kind, const std::string& text);
  void send_all(FrameKind kind, const std::string& text, const Watched* except);
  void flush(Watched& to);
  void is_gone(Watched& from, const Error& error);
  void check_silence(Clock::time_point now);
  /// The run is over, with this loss or well.
  void end(const std::string& loss, const Watched* source);
  std::string fate(const Watched& of);
  void wake();
  void end_children();

  Place place_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<SharedMemory> memory_;
  std::list<Watched> watched_;  // in place: a link reads into itself
  Descriptor wake_;

  std::mutex mutex_;
  std::condition_variable over_;
  bool is_over_ = false;
  bool is_stopping_ = false;
  bool says_goodbye_ = false;
  std::string loss_;
  std::string reported_;
  std::function<void(const std::string&)> on_end_;
  std::thread thread_;
};

}  // namespace keye::comm
