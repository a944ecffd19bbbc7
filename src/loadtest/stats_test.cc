#include "loadtest/stats.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "loadtest/plan.h"

namespace keye::loadtest {
namespace {

/// By counting: the smallest sample that at least so many percent of the samples do not exceed.
double counted_percentile(const std::vector<float>& samples, double percent) {
  double best = *std::max_element(samples.begin(), samples.end());
  for (const float candidate : samples) {
    const auto below = std::count_if(samples.begin(), samples.end(), [&](float other) { return other <= candidate; });
    const double share = 100.0 * static_cast<double>(below) / static_cast<double>(samples.size());
    if (share >= percent && candidate < best) best = candidate;
  }
  return best;
}

TEST(Stats, PercentilesAreThoseOfASort) {
  Random random(1, 1);
  for (const size_t count : {1, 2, 3, 4, 9, 10, 11, 99, 100, 101, 500}) {
    std::vector<float> samples(count);
    for (float& sample : samples) sample = static_cast<float>(random.next() % 200) / 8;
    const Summary summary = summarize(samples);
    EXPECT_EQ(summary.count, static_cast<int64_t>(count));
    EXPECT_EQ(summary.p50, counted_percentile(samples, 50)) << count;
    EXPECT_EQ(summary.p90, counted_percentile(samples, 90)) << count;
    EXPECT_EQ(summary.p95, counted_percentile(samples, 95)) << count;
    EXPECT_EQ(summary.p99, counted_percentile(samples, 99)) << count;
    EXPECT_EQ(summary.max, *std::max_element(samples.begin(), samples.end()));
    double sum = 0;
    for (const float sample : samples) sum += sample;
    EXPECT_NEAR(summary.mean, sum / static_cast<double>(count), 1e-9);
  }
}

TEST(Stats, Ranks) {
  const std::vector<float> ten = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(percentile(ten, 0), 1);
  EXPECT_EQ(percentile(ten, 10), 1);
  EXPECT_EQ(percentile(ten, 10.1), 2);
  EXPECT_EQ(percentile(ten, 50), 5);
  EXPECT_EQ(percentile(ten, 90), 9);
  EXPECT_EQ(percentile(ten, 95), 10);
  EXPECT_EQ(percentile(ten, 100), 10);
}

TEST(Stats, NoSamples) {
  const Summary summary = summarize({});
  EXPECT_EQ(summary.count, 0);
  EXPECT_EQ(summary.mean, 0);
  EXPECT_EQ(summary.max, 0);
}

TEST(LagMeter, OnTime) {
  LagMeter lag(0, 0.01);
  for (int i = 0; i < 100; ++i) lag.wake(lag.due_s() + 0.0002);
  EXPECT_EQ(lag.summary().count, 100);
  EXPECT_NEAR(lag.summary().max, 0.2, 1e-3);
}

TEST(LagMeter, AStallCountsForEveryTickItCovers) {
  LagMeter lag(0, 0.01);
  lag.wake(0.0101);
  lag.wake(1.0201);  // was due at 0.02: a hundred ticks and one are late
  const Summary summary = lag.summary();
  EXPECT_EQ(summary.count, 102);
  EXPECT_NEAR(summary.max, 1000.1, 1e-2);
  EXPECT_NEAR(summary.p50, 490, 20);
  EXPECT_GT(lag.due_s(), 1.0201);
}

}  // namespace
}  // namespace keye::loadtest
