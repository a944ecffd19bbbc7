#include "loadtest/sse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace keye::loadtest {
namespace {

using Events = std::vector<std::string>;

/// Events of `bytes`, given to the parser in these parts.
Events parse(const std::vector<std::string_view>& parts) {
  SseParser parser;
  Events events;
  for (const std::string_view part : parts) {
    EXPECT_TRUE(parser.push(part, [&](std::string_view data) { events.emplace_back(data); }));
  }
  return events;
}

struct Case {
  const char* name;
  std::string bytes;
  Events events;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"plain", "data: {\"a\":1}\n\ndata: [DONE]\n\n", {"{\"a\":1}", "[DONE]"}},
      {"crlf", "data: a\r\n\r\ndata: b\r\n\r\n", {"a", "b"}},
      {"cr", "data: a\r\rdata: b\r\r", {"a", "b"}},
      {"mixed", "data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", {"a", "b", "c"}},
      {"without a space", "data:a\n\ndata:  b\n\n", {"a", " b"}},
      {"several lines", "data: a\ndata:\ndata: b\n\n", {"a\n\nb"}},
      {"empty data", "data:\n\ndata\n\n", {"", ""}},
      {"comments", ": ping\n\n:\ndata: a\n: x\n\n: end\n\n", {"a"}},
      {"other fields", "event: error\nid: 7\nretry: 10\ndata: a\n\nevent: b\n\ndatax: c\n\n data: d\n\n", {"a"}},
      {"a mark of byte order",
       "\xEF\xBB\xBF"
       "data: a\n\n\xEF\xBB\xBF"
       "data: b\n\n",
       {"a"}},
      {"cut at the end", "data: a\n\ndata: b\n", {"a"}},
      {"empty lines", "\n\n\r\n\rdata: a\n\n\n\n\ndata: b\n\n", {"a", "b"}},
      {"a colon in the data", "data: a: b\n\n", {"a: b"}},
      {"words of many bytes", "data: \xE4\xBD\xA0\xE5\xA5\xBD\n\n", {"\xE4\xBD\xA0\xE5\xA5\xBD"}},
      {"nothing", "", {}},
  };
  return all;
}

TEST(Sse, Whole) {
  for (const Case& test : cases()) EXPECT_EQ(parse({test.bytes}), test.events) << test.name;
}

TEST(Sse, EveryPairOfSplits) {
  for (const Case& test : cases()) {
    const std::string_view bytes = test.bytes;
    for (size_t first = 0; first <= bytes.size(); ++first) {
      for (size_t second = first; second <= bytes.size(); ++second) {
        ASSERT_EQ(parse({bytes.substr(0, first), bytes.substr(first, second - first), bytes.substr(second)}),
                  test.events)
            << test.name << " at " << first << " and " << second;
      }
    }
  }
}

TEST(Sse, ByteByByte) {
  for (const Case& test : cases()) {
    std::vector<std::string_view> parts;
    for (size_t i = 0; i < test.bytes.size(); ++i) parts.push_back(std::string_view(test.bytes).substr(i, 1));
    EXPECT_EQ(parse(parts), test.events) << test.name;
  }
}

TEST(Sse, AnEventComesWithItsLastByte) {
  SseParser parser;
  int events = 0;
  const auto count = [&](std::string_view) { ++events; };
  ASSERT_TRUE(parser.push("data: a\r\n", count));
  EXPECT_EQ(events, 0);
  ASSERT_TRUE(parser.push("\r", count));
  EXPECT_EQ(events, 1);
  ASSERT_TRUE(parser.push("\n", count));
  EXPECT_EQ(events, 1);
}

TEST(Sse, Limits) {
  const auto ignore = [](std::string_view) {};
  EXPECT_TRUE(SseParser(16).push("data: 0123456789\n\n", ignore));
  for (const std::string_view long_bytes : {"data: 0123456789a\n\n", "data: 0123456789abcdefgh",
                                            ": 0123456789abcdefgh\n", "data: 012345\ndata: 789ab\n\n"}) {
    const auto pushed = SseParser(16).push(long_bytes, ignore);
    ASSERT_FALSE(pushed) << long_bytes;
    EXPECT_EQ(pushed.error().code, ErrorCode::too_large);
    SseParser bytewise(16);
    bool refused = false;
    for (size_t i = 0; i < long_bytes.size() && !refused; ++i)
      refused = !bytewise.push(long_bytes.substr(i, 1), ignore);
    EXPECT_TRUE(refused) << long_bytes;
  }
}

TEST(Sse, ManyEventsHoldNoMemoryOfEachOther) {
  SseParser parser(32);
  int events = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(parser.push(": comment\ndata: 0123456789\n\n", [&](std::string_view) { ++events; }));
  }
  EXPECT_EQ(events, 1000);
}

}  // namespace
}  // namespace keye::loadtest
