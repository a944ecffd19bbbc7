#include "ops/cpu/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <iterator>

#include "ops/cpu/linear_dispatch.h"
#include "ops/cpu/linear_plan.h"
#include "tensor/tensor.h"

namespace keye::ops {
namespace {

constexpr size_t kChunk = size_t{1} << 20;    // what a thread reads at a time
constexpr size_t kWindow = size_t{32} << 20;  // what is timed: less than a millisecond, longer than waking the threads
constexpr int64_t kRounds = 40000;            // of spinning: about 70 us a call

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// For processors without kernels: what the compiler makes of plain loops.
double spin_plain(int64_t rounds) {
  constexpr size_t kSums = 64;
  float sums[kSums] = {};
  volatile float source = 0;
  const float a = source;
  const float b = source;
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& sum : sums) sum += (sum + a) * b;  // not foldable: the sum stands on both sides
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  source = total;
  return static_cast<double>(rounds) * kSums * 2;
}

uint64_t read_plain(const void* data, size_t bytes, int, size_t) {
  const auto* words = static_cast<const uint64_t*>(data);
  uint64_t sums[4] = {};
  for (size_t i = 0; i < bytes / sizeof(uint64_t); i += 32) {
    for (size_t j = 0; j < 4; ++j) sums[j] ^= words[i + 8 * j];  // one word of every line
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

/// Flops a second of the best window of all threads.
double best_spin(ThreadPool& pool, double (*spin)(int64_t), double seconds) {
  double best = 0;
  const double end = now() + seconds;
  do {
    const int calls = 4 * pool.size();
    std::atomic<double> flops = 0;
    const double start = now();
    pool.for_each(calls, [&](int64_t, int) { flops.fetch_add(spin(kRounds), std::memory_order_relaxed); });
    best = std::max(best, flops.load() / (now() - start));
  } while (now() < end);
  return best;
}

double best_read(ThreadPool& pool, uint64_t (*read)(const void*, size_t, int, size_t), size_t l3_bytes,
                 double seconds) {
  const size_t bytes = std::max<size_t>(8 * l3_bytes, size_t{256} << 20) / kWindow * kWindow;
  const Buffer buffer(bytes);
  auto* data = static_cast<std::byte*>(buffer.data());
  const auto windows = static_cast<int64_t>(bytes / kWindow);
  pool.for_each(windows, [&](int64_t i, int) { std::memset(data + static_cast<size_t>(i) * kWindow, 1, kWindow); });

  struct Way {
    int streams;
    size_t prefetch;
  };
  constexpr Way kWays[] = {{1, 0}, {2, 0}, {4, 0}, {1, 2048}, {1, 8192}, {4, 2048}};
  double best = 0;
  std::atomic<uint64_t> sink = 0;
  const double end = now() + seconds;
  for (int64_t window = 0; window == 0 || now() < end; ++window) {
    // The ways take turns at each stretch of memory, and come back to it when no cache can hold it any more.
    const Way& way = kWays[static_cast<size_t>(window / windows + window) % std::size(kWays)];
    std::byte* stretch = data + static_cast<size_t>(window % windows) * kWindow;
    const double start = now();
    pool.for_each(kWindow / kChunk, [&](int64_t chunk, int) {
      sink.fetch_xor(read(stretch + static_cast<size_t>(chunk) * kChunk, kChunk, way.streams, way.prefetch),
                     std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(kWindow) / (now() - start));
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(ThreadPool& pool, Isa isa, double seconds) {
  const LinearKernels* kernels = linear_kernels(isa);
  const auto l3_bytes = static_cast<size_t>(cpu_info(isa, pool.size()).l3_bytes);
  MachineLimits limits;
  limits.bf16_flops = best_spin(pool, kernels != nullptr ? kernels->spin_bf16 : spin_plain, 0.2 * seconds);
  limits.f32_flops = best_spin(pool, kernels != nullptr ? kernels->spin_f32 : spin_plain, 0.2 * seconds);
  limits.read_bytes_per_s = best_read(pool, kernels != nullptr ? kernels->read : read_plain, l3_bytes, 0.6 * seconds);
  return limits;
}

}  // namespace keye::ops
