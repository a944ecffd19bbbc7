#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <chrono>

namespace keye {
namespace {

using Clock = std::chrono::steady_clock;

/// Longer than the gaps inside a step, shorter than a user's pause.
constexpr std::chrono::microseconds kSpinTime{100};
/// Between two looks at the clock; x86's pause takes between 10 and 60 ns.
constexpr int kSpins = 32;

constexpr uint64_t kNoItem = 0xffffffffU;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Spins until `done` or for kSpinTime. Returns whether it is done.
template <class Done>
bool spin(const Done& done) {
  const Clock::time_point end = Clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kSpins; ++i) {
      if (done()) return true;
      relax();
    }
  } while (Clock::now() < end);
  return done();
}

}  // namespace

std::vector<int> ThreadPool::usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> result;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &set)) result.push_back(i);
    }
  }
  if (result.empty()) result.push_back(0);
  return result;
}

ThreadPool::ThreadPool(int threads) {
  const std::vector<int> processors = usable_processors();
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { work(worker); });
    // More threads than processors is allowed (tests do it); pinning would then stack them.
    if (threads > static_cast<int>(processors.size())) continue;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processors[static_cast<size_t>(worker)], &set);
    ::pthread_setaffinity_np(workers_.back().native_handle(), sizeof set, &set);
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  loop_.fetch_add(1);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t items, void* context, Call call, bool may_leave) {
  const uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
  // Closed first: a worker that still looks for items of the last loop, and reads what is written next, finds none.
  next_.store(uint64_t{loop} << 32 | kNoItem, std::memory_order_relaxed);
  call_.store(call, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  items_.store(items, std::memory_order_release);
  may_leave_.store(may_leave, std::memory_order_release);
  unfinished_.store(items, std::memory_order_relaxed);
  next_.store(uint64_t{loop} << 32, std::memory_order_release);
  loop_.store(loop, std::memory_order_seq_cst);
  loop_.notify_all();
  drain(loop, 0);
  const auto is_done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
  // A worker lost its processor with an item in its hands: let it have ours.
  while (!spin(is_done)) std::this_thread::yield();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (true) {
    if (!spin([&] { return loop_.load(std::memory_order_acquire) != seen; })) loop_.wait(seen);
    seen = loop_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    drain(seen, worker);
  }
}

/// Takes items of this loop until there are none, or another loop has begun.
void ThreadPool::drain(uint32_t loop, int worker) {
  uint64_t next = next_.load(std::memory_order_acquire);
  while (next >> 32 == loop) {
    const auto item = static_cast<int64_t>(next & kNoItem);
    if (item >= items_.load(std::memory_order_acquire)) return;
    const Call call = call_.load(std::memory_order_acquire);
    void* context = context_.load(std::memory_order_acquire);
    const bool may_leave = may_leave_.load(std::memory_order_acquire);
    // If this goes well the loop is still open, and stays so while the item is not done: what was read belongs to it.
    if (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    if (!may_leave || !is_interrupted()) call(context, item, worker);
    unfinished_.fetch_sub(1, std::memory_order_release);
    next = next_.load(std::memory_order_acquire);
  }
}

}  // namespace keye
