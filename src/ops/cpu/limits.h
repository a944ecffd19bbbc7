// What this machine can do at best, measured: the yardstick that benchmarks report shares of.
#pragma once

#include "base/thread_pool.h"
#include "ops/cpu/isa.h"

namespace keye::ops {

struct MachineLimits {
  double read_bytes_per_s = 0;  // from memory, far beyond the caches
  double bf16_flops = 0;        // multiply and add count one each; f32's where there is no bf16 instruction
  double f32_flops = 0;
};

/// Over all threads of the pool, by the wall clock: the best of many short windows and, for memory, of several ways to
/// read. Takes about `seconds`, and at least one window of each.
MachineLimits measure_limits(ThreadPool& pool, Isa isa, double seconds);

}  // namespace keye::ops
