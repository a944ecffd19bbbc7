// A fixed set of pinned threads that run one loop at a time. Waiting threads spin briefly before they sleep, so that
// the hundreds of short loops of a decoding step cost about a microsecond each. A loop ends when its items are done,
// not when all threads have come: one that has lost its processor to somebody else holds up no more than the item in
// its hands.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace keye {

/// Thrown by a loop that was interrupted: not all of its items were done.
struct LoopInterrupted {};

class ThreadPool {
 public:
  /// `threads` counts the caller: 1 means no thread is started. Worker i is pinned to the i-th processor that the
  /// process may use; the caller is not pinned.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(item, worker) once for every item of [0, items); items are handed out one by one in increasing order to
  /// whichever thread is free; worker is in [0, size()). Returns when all are done. Not reentrant, one caller at a
  /// time. At most 2^32 - 1 items. Throws LoopInterrupted if interrupted; the body itself must not throw.
  template <class Body>
  void for_each(int64_t items, Body&& body) {
    if (items <= 0) return;
    each(items, body, true);
    if (is_interrupted()) throw LoopInterrupted{};
  }
  /// The same, but never interrupted: for short loops that others wait for.
  template <class Body>
  void finish_each(int64_t items, Body&& body) {
    if (items > 0) each(items, body, false);
  }

  /// From any thread: the loop under way, and all that begin before resume(), are interrupted.
  void interrupt() { interrupted_.store(true, std::memory_order_relaxed); }
  void resume() { interrupted_.store(false, std::memory_order_relaxed); }
  /// For bodies that take long: they may leave the rest.
  bool is_interrupted() const { return interrupted_.load(std::memory_order_relaxed); }

  /// The processors that this process may use, by number; never none.
  static std::vector<int> usable_processors();
  /// How many these are.
  static int processors() { return static_cast<int>(usable_processors().size()); }

 private:
  using Call = void (*)(void* context, int64_t item, int worker);

  template <class Body>
  void each(int64_t items, Body& body, bool may_leave) {
    if (items == 1 || workers_.empty()) {
      for (int64_t i = 0; i < items && !(may_leave && is_interrupted()); ++i) body(i, 0);
      return;
    }
    run(
        items, const_cast<void*>(static_cast<const void*>(&body)),
        [](void* context, int64_t item, int worker) { (*static_cast<Body*>(context))(item, worker); }, may_leave);
  }
  void run(int64_t items, void* context, Call call, bool may_leave);
  void work(int worker);
  void drain(uint32_t loop, int worker);

  std::vector<std::thread> workers_;
  // The loop under way. A worker that has lost its processor may look at these when another loop has begun: what it
  // reads counts only if it then takes an item of the loop that it came for.
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> items_{0};
  std::atomic<bool> may_leave_{true};
  alignas(64) std::atomic<uint64_t> next_{0};       // number of the loop << 32 | the next item
  alignas(64) std::atomic<int64_t> unfinished_{0};  // items
  alignas(64) std::atomic<uint32_t> loop_{0};       // number of the loop, for the workers to wait on
  std::atomic<bool> stopping_{false};
  std::atomic<bool> interrupted_{false};
};

}  // namespace keye
