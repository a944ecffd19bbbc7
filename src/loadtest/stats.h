// Figures of samples, computed from all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace keye::loadtest {

/// Of no samples, all 0.
struct Summary {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};

/// The smallest sample that at least `percent` of 100 of the samples do not exceed (the nearest rank): always a sample,
/// never a mean of two. `sorted` is ascending and not empty; percent is in [0, 100].
double percentile(std::span<const float> sorted, double percent);

Summary summarize(std::vector<float> samples);

/// How late the event loop's own clock ticks are: what waits in the loop is measured this much too late.
class LagMeter {
 public:
  /// Ticks are due every `interval_s` from `start_s` on.
  LagMeter(double start_s, double interval_s) : due_s_(start_s + interval_s), interval_s_(interval_s) {}

  double due_s() const { return due_s_; }
  /// The loop woke for the tick that is due. Ticks that it slept through count as well, each with its own lateness.
  void wake(double now_s);
  /// In milliseconds.
  Summary summary() const { return summarize(samples_ms_); }

 private:
  double due_s_;
  double interval_s_;
  std::vector<float> samples_ms_;
};

}  // namespace keye::loadtest
