// Work on a device that is left in the middle when nobody wants its result any more: a step over a long context takes
// seconds, and who gives up must not wait for it.
#pragma once

#include <mutex>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/thread_pool.h"
#include "engine/request.h"
#include "ops/backend.h"

namespace keye::engine {

class Interruptible {
 public:
  /// The backend must outlive it.
  explicit Interruptible(ops::Backend& backend) : backend_(backend) {}

  /// The engine's thread: work() computes for these requests. False: one of them was abandoned, and the work not begun
  /// or left in the middle. Work that others lost by that is not left a second time, so that all get on.
  template <class Work>
  bool run(std::span<const RequestId> requests, Work&& work) {
    if (!begin(requests)) return false;
    bool is_done = true;
    try {
      work();
    } catch (const LoopInterrupted&) {
      is_done = false;
    }
    end(is_done);
    return is_done;
  }

  /// Any thread: the engine is about to be told that the request is over.
  void abandon(RequestId request);
  /// The engine's thread: it was told.
  void forget(RequestId request);
  /// Any thread: no work is wanted any more.
  void abandon_all();

 private:
  bool begin(std::span<const RequestId> requests);
  void end(bool is_done);

  ops::Backend& backend_;
  std::mutex mutex_;
  std::vector<RequestId> working_for_;       // while work can be left
  std::unordered_set<RequestId> abandoned_;  // of which the engine was not told yet
  bool all_abandoned_ = false;
  bool must_finish_ = false;
};

}  // namespace keye::engine
