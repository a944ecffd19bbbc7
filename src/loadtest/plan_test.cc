#include "loadtest/plan.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace keye::loadtest {
namespace {

std::vector<Planned> all(const Config& config) {
  Plan plan(config);
  std::vector<Planned> planned;
  while (const auto next = plan.next(0)) planned.push_back(*next);
  return planned;
}

TEST(Random, DependsOnBothNumbersAndNothingElse) {
  EXPECT_EQ(Random(1, 2).next(), Random(1, 2).next());
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (uint64_t stream = 0; stream < 50; ++stream) seen.insert(Random(seed, stream).next());
  }
  EXPECT_EQ(seen.size(), 2500U);
}

TEST(Random, Uniform) {
  Random random(7, 0);
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    const double value = random.uniform();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / 10'000, 0.5, 0.01);
}

TEST(Plan, EqualGaps) {
  const auto planned = all({.rate = 8, .requests = 100});
  ASSERT_EQ(planned.size(), 100U);
  for (size_t i = 0; i < planned.size(); ++i) {
    EXPECT_EQ(planned[i].index, static_cast<int64_t>(i));
    EXPECT_DOUBLE_EQ(planned[i].at_s, static_cast<double>(i) / 8);
    EXPECT_EQ(planned[i].image, -1);
  }
}

TEST(Plan, PoissonGapsAreReproducible) {
  const Config config{.rate = 50, .poisson = true, .requests = 20'000, .seed = 3};
  const auto planned = all(config);
  const auto again = all(config);
  Config other = config;
  other.seed = 4;
  const auto different = all(other);
  int same = 0;
  double squares = 0;
  for (size_t i = 1; i < planned.size(); ++i) {
    ASSERT_EQ(planned[i].at_s, again[i].at_s);
    same += planned[i].at_s == different[i].at_s ? 1 : 0;
    const double gap = planned[i].at_s - planned[i - 1].at_s;
    ASSERT_GT(gap, 0);
    squares += gap * gap;
  }
  EXPECT_EQ(same, 0);
  EXPECT_NEAR(planned.back().at_s, 20'000 / 50.0, 10);
  // An exponential gap's mean square is twice its squared mean.
  EXPECT_NEAR(squares / 20'000, 2.0 / (50 * 50), 0.1 * 2.0 / (50 * 50));
}

TEST(Plan, TheScheduleDoesNotHearTheClock) {
  Plan late({.rate = 10, .requests = 3});
  EXPECT_DOUBLE_EQ(late.next(0)->at_s, 0);
  EXPECT_DOUBLE_EQ(late.next(5)->at_s, 0.1);
  EXPECT_DOUBLE_EQ(late.next(50)->at_s, 0.2);
  EXPECT_FALSE(late.next(51));
}

TEST(Plan, AClosedLoopSendsWhenAsked) {
  Plan plan({.concurrency = 2, .requests = 2});
  EXPECT_EQ(plan.next(1.5)->at_s, 1.5);
  const auto second = plan.next(2.5);
  EXPECT_EQ(second->at_s, 2.5);
  EXPECT_EQ(second->index, 1);
  EXPECT_FALSE(plan.next(3));
}

TEST(Plan, TheDurationEndsBothLoops) {
  EXPECT_EQ(all({.rate = 10, .duration_s = 0.95}).size(), 10U);
  EXPECT_EQ(all({.rate = 10, .requests = 4, .duration_s = 0.95}).size(), 4U);
  Plan closed({.concurrency = 1, .duration_s = 2});
  EXPECT_TRUE(closed.next(1.9));
  EXPECT_FALSE(closed.next(2.0));
}

TEST(Plan, PicturesByShare) {
  Config config{.concurrency = 1, .requests = 4000, .images = {"a", "b", "c"}, .image_share = 0.25, .seed = 9};
  std::map<int, int> counts;
  for (const Planned& planned : all(config)) ++counts[planned.image];
  EXPECT_EQ(counts.size(), 4U);
  EXPECT_NEAR(counts[-1], 3000, 120);
  for (int image = 0; image < 3; ++image) EXPECT_NEAR(counts[image], 333, 80);
  const auto first = all(config);
  const auto second = all(config);
  for (size_t i = 0; i < first.size(); ++i) ASSERT_EQ(first[i].image, second[i].image);
  config.image_share = 1;
  for (const Planned& planned : all(config)) ASSERT_GE(planned.image, 0);
  config.image_share = 0;
  for (const Planned& planned : all(config)) ASSERT_EQ(planned.image, -1);
}

TEST(WordsForTokens, ByTheLineThroughBothCounts) {
  // 12 tokens of template, 1.5 a word.
  EXPECT_EQ(words_for_tokens({16, 36}, {116, 186}, 1512), 1000);
  EXPECT_EQ(words_for_tokens({16, 36}, {116, 186}, 36), 16);
  EXPECT_EQ(words_for_tokens({16, 36}, {116, 186}, 1), 1);
}

TEST(WordsForTokens, AWordATokenWhenNothingIsKnown) {
  EXPECT_EQ(words_for_tokens({16, -1}, {116, -1}, 50), 50);
  EXPECT_EQ(words_for_tokens({16, 36}, {116, -1}, 50), 50);
  EXPECT_EQ(words_for_tokens({16, 36}, {116, 36}, 50), 50);
  EXPECT_EQ(words_for_tokens({16, 0}, {116, 9}, 50), 50);
}

}  // namespace
}  // namespace keye::loadtest
