#include "loadtest/stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace keye::loadtest {

double percentile(std::span<const float> sorted, double percent) {
  KEYE_CHECK(!sorted.empty() && percent >= 0 && percent <= 100, "{} samples, {} percent", sorted.size(), percent);
  const double rank = std::ceil(percent * static_cast<double>(sorted.size()) / 100);
  const size_t index = rank < 1 ? 0 : static_cast<size_t>(rank) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

Summary summarize(std::vector<float> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const double sum = std::accumulate(samples.begin(), samples.end(), 0.0);
  return {.count = static_cast<int64_t>(samples.size()),
          .mean = sum / static_cast<double>(samples.size()),
          .p50 = percentile(samples, 50),
          .p90 = percentile(samples, 90),
          .p95 = percentile(samples, 95),
          .p99 = percentile(samples, 99),
          .max = samples.back()};
}

void LagMeter::wake(double now_s) {
  for (; due_s_ <= now_s; due_s_ += interval_s_) samples_ms_.push_back(static_cast<float>((now_s - due_s_) * 1e3));
}

}  // namespace keye::loadtest
