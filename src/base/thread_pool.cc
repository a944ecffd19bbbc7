#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace keye {
namespace {

constexpr int kSpins =
    20000;  // about 100 us at x86's pause: longer than the gaps inside a step, shorter than a user's pause

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

std::vector<int> allowed_processors() {
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

}  // namespace

int ThreadPool::processors() { return static_cast<int>(allowed_processors().size()); }

ThreadPool::ThreadPool(int threads) {
  const std::vector<int> processors = allowed_processors();
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
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t items, void* context, Call call) {
  call_ = call;
  context_ = context;
  items_ = items;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  generation_.notify_all();
  drain(0);
  for (int spins = 0; running_.load(std::memory_order_acquire) != 0;) {
    if (++spins < kSpins) {
      relax();
    } else {
      std::this_thread::yield();  // a worker lost its processor: let it have ours
    }
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        generation_.wait(seen);
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    drain(worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::drain(int worker) {
  for (int64_t item = next_.fetch_add(1, std::memory_order_relaxed); item < items_;
       item = next_.fetch_add(1, std::memory_order_relaxed)) {
    call_(context_, item, worker);
  }
}

}  // namespace keye
