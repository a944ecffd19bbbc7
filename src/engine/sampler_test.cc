#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "engine/sampler.h"
#include "engine/stop.h"

namespace keye::engine {
namespace {

Sampled sample(const std::vector<float>& logits, const SamplingParams& params, const TokenHistory& history = {},
               int64_t position = 0) {
  return Sampler(static_cast<int>(logits.size())).sample(logits, params, history, position);
}

/// Shares of each token over many positions.
std::map<int32_t, double> shares(const std::vector<float>& logits, const SamplingParams& params) {
  std::map<int32_t, double> result;
  Sampler sampler(static_cast<int>(logits.size()));
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) result[sampler.sample(logits, params, {}, i).token] += 1.0 / kDraws;
  return result;
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  EXPECT_EQ(sample({1, 3, 3, 2}, {.temperature = 0}).token, 1);
  EXPECT_EQ(sample({NAN, 3, 3, 2}, {.temperature = 0}).token, 1);
  EXPECT_EQ(sample({1, 3, 3, 2}, {.top_k = 1}).token, 1);
  EXPECT_NEAR(sample({0, 0}, {.temperature = 0, .logprobs = 0}).logprob, std::log(0.5), 1e-6);
}

TEST(Sampler, DrawsFromTheSoftmax) {
  const std::vector<float> logits = {0.0F, std::log(2.0F), std::log(3.0F), std::log(4.0F)};
  const auto plain = shares(logits, {});
  EXPECT_NEAR(plain.at(0), 0.1, 0.01);
  EXPECT_NEAR(plain.at(3), 0.4, 0.012);
  const auto cold = shares(logits, {.temperature = 0.5F});  // weights 1 4 9 16
  EXPECT_NEAR(cold.at(3), 16.0 / 30, 0.012);
  const auto top2 = shares(logits, {.top_k = 2});
  EXPECT_EQ(top2.size(), 2U);
  EXPECT_NEAR(top2.at(2), 3.0 / 7, 0.012);
  const auto nucleus = shares(logits, {.top_p = 0.65F});  // 0.4 + 0.3 reaches it
  EXPECT_EQ(nucleus.size(), 2U);
  const auto floor = shares(logits, {.min_p = 0.6F});  // drops below 0.24: keeps 0.4 and 0.3
  EXPECT_EQ(floor.size(), 2U);
}

TEST(Sampler, TiesAtTheCutGoToTheLowerId) {
  const auto cut = shares({1, 1, 1, 1}, {.top_k = 2});
  EXPECT_TRUE(cut.contains(0) && cut.contains(1) && cut.size() == 2);
}

TEST(Sampler, SameSeedAndPositionSameToken) {
  const std::vector<float> logits(100, 0.0F);
  int different = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(sample(logits, {.seed = 7}, {}, i).token, sample(logits, {.seed = 7}, {}, i).token);
    different += sample(logits, {.seed = 7}, {}, i).token != sample(logits, {.seed = 8}, {}, i).token ? 1 : 0;
  }
  EXPECT_GT(different, 90);
}

TEST(Sampler, PenaltiesAndBias) {
  TokenHistory history;
  history.add_prompt(std::vector<int32_t>{1});
  history.add_reply(2);
  history.add_reply(2);
  EXPECT_EQ(sample({0, 4, 3, 1}, {.temperature = 0, .repetition_penalty = 2.0F}, history).token,
            1);  // 4 / 2 = 2 against 3 / 2
  EXPECT_EQ(sample({0, 4, 3, 2.5F}, {.temperature = 0, .repetition_penalty = 2.0F}, history).token, 3);
  EXPECT_EQ(sample({0, 1, 3, 2.5F}, {.temperature = 0, .presence_penalty = 1.0F}, history).token, 3);
  EXPECT_EQ(sample({0, 1, 3, 1.5F}, {.temperature = 0, .frequency_penalty = 1.0F}, history).token, 3);  // 3 - 2
  EXPECT_EQ(sample({0, 1, 3, 2}, {.temperature = 0, .logit_bias = {{0, 5.0F}}}).token, 0);
}

TEST(Sampler, RefusesOutOfRangeFieldsByName) {
  EXPECT_EQ(check_sampling({.temperature = -1}, 10).error().where, "temperature");
  EXPECT_EQ(check_sampling({.temperature = NAN}, 10).error().where, "temperature");
  EXPECT_EQ(check_sampling({.top_p = 0}, 10).error().where, "top_p");
  EXPECT_EQ(check_sampling({.min_p = 1.5F}, 10).error().where, "min_p");
  EXPECT_EQ(check_sampling({.repetition_penalty = 0}, 10).error().where, "repetition_penalty");
  EXPECT_EQ(check_sampling({.logit_bias = {{10, 1.0F}}}, 10).error().where, "logit_bias");
  EXPECT_TRUE(check_sampling({}, 10));
}

TEST(StopStrings, HoldsBackOnlyWhatMayStillMatch) {
  StopStrings stops({"END", "\n\n"});
  EXPECT_EQ(stops.push("abcE"), "abc");
  EXPECT_EQ(stops.push("x"), "Ex");
  EXPECT_EQ(stops.push("yEN"), "y");
  EXPECT_EQ(stops.push("Dz"), "");
  EXPECT_EQ(stops.hit(), "END");
  EXPECT_EQ(stops.flush(), "");
}

TEST(StopStrings, SameResultHoweverTheTextIsSplit) {
  const std::string text = "aab abab abc aabb\n END";
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      StopStrings stops({"abc", "bb\n\n"});
      std::string shown = stops.push(text.substr(0, a));
      shown += stops.push(text.substr(a, b - a));
      shown += stops.push(text.substr(b));
      shown += stops.flush();
      ASSERT_EQ(shown, "aab abab ");
    }
  }
}

}  // namespace
}  // namespace keye::engine
