#include "loadtest/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace keye::loadtest {
namespace {

using testing::HasSubstr;
using testing::Not;

Outcome reply(double first_s, double gap_s, int chunks, Usage usage) {
  Outcome outcome;
  outcome.first_s = first_s;
  outcome.last_s = first_s + gap_s * (chunks - 1);
  outcome.end_s = outcome.last_s + 0.5;
  outcome.chunks = chunks;
  outcome.gaps_ms.assign(static_cast<size_t>(chunks - 1), static_cast<float>(gap_s * 1e3));
  outcome.usage = usage;
  return outcome;
}

Outcome failure(std::string kind, std::string message) {
  Outcome outcome;
  outcome.failure = {std::move(kind), std::move(message)};
  return outcome;
}

Report sample() {
  Tally tally;
  tally.add(reply(1, 0.25, 3, {.prompt_tokens = 10, .completion_tokens = 5, .cached_tokens = 2}));
  tally.add(reply(2, 0.5, 5, {.prompt_tokens = 20, .completion_tokens = 5}));
  tally.add(failure("http_429", "slow\ndown"));
  tally.add(failure("http_429", "other"));
  tally.add(failure("timeout", std::string(1000, 'x')));
  Report report = tally.report();
  report.duration_s = 4;
  report.config.api_key = "secret";
  report.config.base_url = "http://host";
  report.config.concurrency = 2;
  return report;
}

TEST(Tally, CountsAndTimes) {
  const Report report = sample();
  EXPECT_EQ(report.ok, 2);
  EXPECT_EQ(report.failed, 3);
  EXPECT_EQ(report.errors.at("http_429"), 2);
  EXPECT_EQ(report.errors.at("timeout"), 1);
  EXPECT_EQ(report.error_examples.at("http_429"), "slow down");
  EXPECT_LT(report.error_examples.at("timeout").size(), 400U);
  EXPECT_EQ(report.chunks, 8);
  EXPECT_EQ(report.output_tokens, 10);
  EXPECT_EQ(report.prompt_tokens, 30);
  EXPECT_EQ(report.cached_tokens, 2);
  EXPECT_EQ(report.with_usage, 2);
  EXPECT_EQ(report.ttft_ms.count, 2);
  EXPECT_EQ(report.ttft_ms.p50, 1000);
  EXPECT_EQ(report.ttft_ms.max, 2000);
  EXPECT_EQ(report.itl_ms.count, 6);
  EXPECT_EQ(report.itl_ms.max, 500);
  EXPECT_EQ(report.tpot_ms.p50, 125);  // half a second over four tokens
  EXPECT_EQ(report.tpot_ms.max, 500);
  EXPECT_EQ(report.e2e_ms.max, 4500);
  EXPECT_EQ(report.per_second(report.output_tokens), 2.5);
}

TEST(Tally, RepliesWithoutTextAndWithoutUsage) {
  Tally tally;
  Outcome empty;
  empty.end_s = 1;
  tally.add(empty);
  tally.add(reply(1, 0.25, 1, {}));
  const Report report = tally.report();
  EXPECT_EQ(report.ok, 2);
  EXPECT_EQ(report.empty, 1);
  EXPECT_EQ(report.ttft_ms.count, 1);
  EXPECT_EQ(report.tpot_ms.count, 0);
  EXPECT_EQ(report.e2e_ms.count, 2);
  EXPECT_EQ(report.output_tokens, 1);
  EXPECT_EQ(report.prompt_tokens, -1);
  EXPECT_EQ(report.cached_tokens, -1);
  EXPECT_EQ(report.with_usage, 0);
}

TEST(Report, Json) {
  const OrderedJson json = to_json(sample());
  EXPECT_EQ(json["config"]["base_url"], "http://host");
  EXPECT_EQ(json["config"]["endpoint"], "chat");
  EXPECT_THAT(json.dump(), Not(HasSubstr("secret")));
  EXPECT_EQ(json["requests"]["ok"], 2);
  EXPECT_EQ(json["requests"]["failed"], 3);
  EXPECT_EQ(json["errors"], OrderedJson::parse(R"({"http_429": 2, "timeout": 1})"));
  EXPECT_EQ(json["duration_s"], 4);
  EXPECT_EQ(json["output_tokens_per_s"], 2.5);
  EXPECT_EQ(json["input_tokens_per_s"], 7.5);
  EXPECT_EQ(json["requests_per_s"], 0.5);
  EXPECT_EQ(json["ttft_ms"]["p99"], 2000);
  EXPECT_EQ(json["tokens"]["cached"], 2);
  EXPECT_EQ(json["generator"]["bottleneck"], false);
}

TEST(Report, WhatIsNotKnownIsNull) {
  const OrderedJson json = to_json(Report());
  EXPECT_TRUE(json["input_tokens_per_s"].is_null());
  EXPECT_TRUE(json["tokens"]["prompt"].is_null());
  EXPECT_TRUE(json["tokens"]["cached"].is_null());
  EXPECT_EQ(json["requests_per_s"], 0);
  EXPECT_EQ(json["errors"], OrderedJson::object());
}

TEST(Report, Table) {
  Report report = sample();
  report.generator.lag_ms.max = 12.5;
  std::string table = to_table(report);
  for (const char* const part :
       {"http://host, /chat/completions, model not named", "closed loop, 2 at a time: 2 ok, 3 failed in 4.00 s",
        "2.5 output tokens/s, 7.5 input tokens/s, 0.50 requests/s", "30 in (2 cached), 10 out in 8 chunks",
        "2 x http_429: slow down", "max 12.5 ms", "first chunk (TTFT)        1500.0    1000.0"}) {
    EXPECT_THAT(table, HasSubstr(part));
  }
  report.config.concurrency = 0;
  report.config.rate = 2.5;
  report.config.poisson = true;
  report.with_usage = 1;
  report.empty = 1;
  table = to_table(report);
  EXPECT_THAT(table, HasSubstr("open loop, 2.5 requests/s (Poisson): "));
  EXPECT_THAT(table, HasSubstr("1 replies without usage"));
  EXPECT_THAT(table, HasSubstr("1 replies without text"));
  EXPECT_THAT(to_table(Report()), HasSubstr("first chunk (TTFT)             -\n"));
}

TEST(Generator, WhenItIsTheBottleneck) {
  EXPECT_FALSE(Generator().was_bottleneck());
  Generator late;
  late.lag_ms.p99 = 30;
  EXPECT_TRUE(late.was_bottleneck());
  Generator busy;
  busy.cpu_share = 0.95;
  EXPECT_TRUE(busy.was_bottleneck());
}

}  // namespace
}  // namespace keye::loadtest
