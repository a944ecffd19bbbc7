#include "server/fields.h"

#include <gtest/gtest.h>

#include "server/request_fields.h"

namespace keye::server {
namespace {

/// A body that must be well-formed.
text::Value body(std::string_view json) {
  const auto value = parse_body(json);
  EXPECT_TRUE(value) << value.error().to_string();
  return *value;
}

TEST(ParseBody, TakesObjectsOnly) {
  EXPECT_TRUE(parse_body(R"({"a": 1})"));
  for (const char* wrong : {"", "[]", "null", "1", "\"a\"", "{", "{\"a\": 1} x", "{'a': 1}", "{\"a\": NaN}"}) {
    const auto value = parse_body(wrong);
    ASSERT_FALSE(value) << wrong;
    EXPECT_EQ(value.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(value.error().where, "body");
  }
}

TEST(Fields, NullCountsAsAbsent) {
  const text::Value value = body(R"({"a": null})");
  Fields fields(value.dict());
  EXPECT_EQ(fields.find("a"), nullptr);
  EXPECT_EQ(*fields.boolean("a"), std::nullopt);
  EXPECT_EQ(*fields.integer("a", 0, 1), std::nullopt);
  EXPECT_EQ(*fields.number("a", 0, 1), std::nullopt);
  EXPECT_EQ(*fields.string("a", 1), std::nullopt);
  EXPECT_TRUE(fields.strings("a", 1, 1)->empty());
  EXPECT_TRUE(fields.token_ids("a", 1)->empty());
  EXPECT_EQ(*fields.object("a"), nullptr);
  EXPECT_TRUE(fields.refuse_others());
}

TEST(Fields, ReadsEveryKind) {
  const text::Value value =
      body(R"({"yes": true, "five": 5, "five_again": 5.0, "half": 0.5, "word": "w", "words": ["a", "b"],
                                     "id": 7, "ids": [7, 8], "none": [], "inner": {"x": 1}})");
  Fields fields(value.dict());
  EXPECT_EQ(*fields.boolean("yes"), true);
  EXPECT_EQ(*fields.integer("five", 5, 5), 5);
  EXPECT_EQ(*fields.integer("five_again", 0, 9), 5);  // JSON has one kind of number
  EXPECT_EQ(*fields.number("half", 0, 1), 0.5);
  EXPECT_EQ(*fields.number("five", 0, 9), 5.0);
  EXPECT_EQ(*fields.string("word", 1), "w");
  EXPECT_EQ(*fields.strings("word", 1, 1), std::vector<std::string>({"w"}));
  EXPECT_EQ(*fields.strings("words", 2, 1), std::vector<std::string>({"a", "b"}));
  EXPECT_EQ(*fields.token_ids("id", 1), std::vector<int32_t>({7}));
  EXPECT_EQ(*fields.token_ids("ids", 2), std::vector<int32_t>({7, 8}));
  EXPECT_TRUE(fields.strings("none", 2, 1)->empty());
  EXPECT_EQ((*fields.object("inner"))->size(), 1U);
  EXPECT_TRUE(fields.refuse_others());
}

TEST(Fields, SaysWhereAndWhatWasExpectedAndFound) {
  const text::Value value =
      body(R"({"a": "text", "b": 1.5, "c": true, "d": [1, "x"], "e": ["long"], "f": 123456789012345678901234567890})");
  Fields fields(value.dict(), "outer.");
  const auto wrong = [](const auto& result, std::string_view where, std::string_view part) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(result.error().where, where);
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  wrong(fields.boolean("a"), "outer.a", "should be true or false, got \"text\"");
  wrong(fields.integer("a", 0, 9), "outer.a", "a whole number in [0, 9]");
  wrong(fields.integer("b", 0, 9), "outer.b", "got 1.5");
  wrong(fields.integer("c", 0, 9), "outer.c", "got true");  // true is not 1
  wrong(fields.number("c", 0, 9), "outer.c", "got true");
  wrong(fields.number("b", 2, 9), "outer.b", "a number in [2, 9], got 1.5");
  wrong(fields.integer("f", 0, 9), "outer.f", "too many digits");
  wrong(fields.number("f", 0, 9), "outer.f", "too many digits");
  wrong(fields.string("a", 3), "outer.a", "at most 3 bytes");
  wrong(fields.string("b", 3), "outer.b", "got 1.5");
  wrong(fields.strings("e", 1, 3), "outer.e", "each of at most 3 bytes, got \"long\"");
  wrong(fields.strings("d", 1, 9), "outer.d", "got a list of 2");
  wrong(fields.strings("d", 2, 9), "outer.d", "got 1");
  wrong(fields.token_ids("d", 2), "outer.d", "got \"x\"");
  wrong(fields.token_ids("b", 2), "outer.b", "a token id or a list");
  wrong(fields.object("a"), "outer.a", "an object");
  EXPECT_EQ(fields.place("z"), "outer.z");
}

TEST(Fields, TokenIdsAreWholeNumbersThatFit) {
  const text::Value value =
      body(R"({"minus": [-1], "large": [2147483648], "largest": [2147483647], "real": [1.0], "many": [1, 2, 3]})");
  Fields fields(value.dict());
  EXPECT_FALSE(fields.token_ids("minus", 9));
  EXPECT_FALSE(fields.token_ids("large", 9));
  EXPECT_EQ(*fields.token_ids("largest", 9), std::vector<int32_t>({2147483647}));
  EXPECT_FALSE(fields.token_ids("real", 9));
  EXPECT_FALSE(fields.token_ids("many", 2));
}

TEST(Fields, RefusesWhatNobodyAskedFor) {
  const text::Value value = body(R"({"known": 1, "absent": null, "unknown": 0})");
  Fields fields(value.dict());
  fields.find("known");
  const auto refused = fields.refuse_others();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().where, "unknown");
  const text::Value long_name = body("{\"" + std::string(5000, 'n') + "\": 1}");
  EXPECT_LE(Fields(long_name.dict()).refuse_others().error().where.size(), 100U);
}

TEST(Fields, LongTextIsNotRepeatedInErrors) {
  EXPECT_EQ(shown(text::Value(std::string(100, 'x'))), "a string of 100 bytes");
  EXPECT_EQ(shown(text::Value(int64_t{-3})), "-3");
  EXPECT_EQ(shown(text::Value::none()), "null");
  EXPECT_EQ(shown(text::Value::dict({})), "an object");
}

}  // namespace
}  // namespace keye::server
