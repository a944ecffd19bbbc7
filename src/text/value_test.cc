#include "text/value.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "text/value_text.h"

namespace keye::text {
namespace {

using testing::HasSubstr;

Value parse(std::string_view json, char origin = kOriginUser) {
  const Result<Value> value = parse_value(json, origin, "test");
  EXPECT_TRUE(value) << value.error().to_string();
  return *value;
}
std::string repr(const Value& value) { return to_repr(value, 1 << 20)->text; }
std::string dumps(const Value& value, const JsonStyle& style = {}) { return to_json(value, style, 1 << 20)->text; }

TEST(Marked, KeepsOneOriginForEachByte) {
  Marked text("<|");
  EXPECT_TRUE(text.origin.empty());
  text.append("user", kOriginUser);
  text.append("|>");
  EXPECT_EQ(text.text, "<|user|>");
  EXPECT_EQ(text.origin, std::string("\0\0\1\1\1\1\0\0", 8));
  EXPECT_EQ(text.slice(4, 3).origin, std::string("\1\1\0", 3));
  EXPECT_TRUE(Marked("a").slice(0, 1).origin.empty());
}

TEST(Dict, KeepsOrderAndFindsManyKeys) {
  Dict dict;
  for (int i = 0; i < 5000; ++i) dict.set("key" + std::to_string(i), Value(i));
  dict.set("key7", Value("changed"));
  EXPECT_EQ(dict.size(), 5000U);
  EXPECT_EQ(dict.find("key7")->text(), "changed");
  EXPECT_EQ(dict.find("key4999")->integer(), 4999);
  EXPECT_EQ(dict.find("key5000"), nullptr);
  EXPECT_EQ(dict.items()[7].key.text(), "key7");
}

TEST(Dict, NumbersThatAreEqualAreOneKey) {
  Dict dict;
  dict.set(Value(1), Value("int"));
  dict.set(Value(1.0), Value("float"));
  dict.set(Value(true), Value("bool"));
  EXPECT_EQ(dict.size(), 1U);
  EXPECT_EQ(repr(Value::dict(dict)), "{1: 'bool'}");
  EXPECT_FALSE(Dict::hashable(Value::list({})));
  EXPECT_TRUE(Dict::hashable(Value::tuple({Value(1), Value("a")})));
}

TEST(Value, ComparesIntegersAndFloatsExactly) {
  EXPECT_EQ(compare_numbers(Value(int64_t{9007199254740993}), Value(9007199254740992.0)), 1);
  EXPECT_EQ(compare_numbers(Value(2), Value(2.5)), -1);
  EXPECT_EQ(compare_numbers(Value(-1), Value(-INFINITY)), 1);
  EXPECT_EQ(compare_numbers(Value(1), Value(NAN)), 2);
  EXPECT_EQ(compare_numbers(Value(INT64_MAX), Value(9223372036854775808.0)), -1);
}

TEST(FloatRepr, IsPythons) {
  const std::pair<double, const char*> cases[] = {{0.0, "0.0"},
                                                  {-0.0, "-0.0"},
                                                  {1.0, "1.0"},
                                                  {1e3, "1000.0"},
                                                  {0.1 + 0.2, "0.30000000000000004"},
                                                  {1e15, "1000000000000000.0"},
                                                  {1e16, "1e+16"},
                                                  {123456789012345680.0, "1.2345678901234568e+17"},
                                                  {0.0001, "0.0001"},
                                                  {0.00001, "1e-05"},
                                                  {-2.5e-7, "-2.5e-07"},
                                                  {5e-324, "5e-324"},
                                                  {1.7976931348623157e308, "1.7976931348623157e+308"},
                                                  {INFINITY, "inf"},
                                                  {-INFINITY, "-inf"},
                                                  {NAN, "nan"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(float_repr(value), text);
}

TEST(Repr, QuotesAndEscapesAsPython) {
  EXPECT_EQ(repr(Value("it's")), "\"it's\"");
  EXPECT_EQ(repr(Value("it's \"x\"")), "'it\\'s \"x\"'");
  EXPECT_EQ(repr(Value("a\\\n\t\r\x01\x7f é \u00ad\u200b 你 \U0001F600 \U000E0001")),
            "'a\\\\\\n\\t\\r\\x01\\x7f é \\xad\\u200b 你 \U0001F600 \\U000e0001'");
  EXPECT_EQ(repr(parse(R"([null, true, 1, 1.5, "s", {"a": [], "b": {}}])")),
            "[None, True, 1, 1.5, 's', {'a': [], 'b': {}}]");
  EXPECT_EQ(repr(Value::tuple({Value(1)})), "(1,)");
  EXPECT_EQ(to_str(Value(), 10)->text, "");
  EXPECT_EQ(repr(Value()), "Undefined");
}

TEST(Repr, OriginsFollow) {
  const Result<Marked> text = to_repr(Value::list({Value(Marked("a\n", kOriginUser))}), 100);
  EXPECT_EQ(text->text, "['a\\n']");
  EXPECT_EQ(text->origin, std::string("\0\0\1\1\1\0\0", 7));
}

TEST(Json, WritesAsPythonsDumps) {
  const Value value = parse(R"({"b": [1, 2.50, true, null, "é\"\\\n\u0001\u007f😀"], "a": {}, "c": [{"d": []}]})");
  EXPECT_EQ(dumps(value),
            "{\"b\": [1, 2.5, true, null, \"é\\\"\\\\\\n\\u0001\x7f😀\"], \"a\": {}, \"c\": [{\"d\": []}]}");
  JsonStyle ascii;
  ascii.ensure_ascii = true;
  EXPECT_EQ(dumps(parse(R"("é\u007f😀")"), ascii), "\"\\u00e9\\u007f\\ud83d\\ude00\"");
  JsonStyle pretty;
  pretty.indent = Marked("  ");
  pretty.sort_keys = true;
  EXPECT_EQ(dumps(parse(R"({"b": [1, {"x": 2}], "a": []})"), pretty),
            "{\n  \"a\": [],\n  \"b\": [\n    1,\n    {\n      \"x\": 2\n    }\n  ]\n}");
  JsonStyle tight;
  tight.item_separator = Marked(",");
  tight.key_separator = Marked(":");
  EXPECT_EQ(dumps(parse(R"({"a": [1, 2]})"), tight), "{\"a\":[1,2]}");
  EXPECT_EQ(dumps(Value::list({Value(NAN), Value(-INFINITY)})), "[NaN, -Infinity]");
  Dict keys;
  keys.set(Value(1), Value(1));
  keys.set(Value::none(), Value(2));
  keys.set(Value(2.5), Value(3));
  EXPECT_EQ(dumps(Value::dict(keys)), "{\"1\": 1, \"null\": 2, \"2.5\": 3}");
}

TEST(Json, RefusesWhatItCannotHold) {
  const Result<Marked> undefined = to_json(Value(), {}, 100);
  ASSERT_FALSE(undefined);
  EXPECT_EQ(undefined.error().code, ErrorCode::invalid_argument);
  const Result<Marked> large = to_json(Value(std::string(200, 'x')), {}, 100);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, ErrorCode::too_large);
  Dict mixed;
  mixed.set(Value(1), Value(1));
  mixed.set("a", Value(1));
  JsonStyle sorted;
  sorted.sort_keys = true;
  EXPECT_FALSE(to_json(Value::dict(mixed), sorted, 100));
}

TEST(ParseValue, KeepsOrderNumbersAndOrigins) {
  EXPECT_EQ(repr(parse(R"({"z": 1, "a": 2, "z": 3})")), "{'z': 3, 'a': 2}");
  EXPECT_EQ(repr(parse("[18446744073709551615, -123456789012345678901234567890, 9223372036854775807, 1e2, -0]")),
            "[18446744073709551615, -123456789012345678901234567890, 9223372036854775807, 100.0, 0]");
  EXPECT_EQ(parse(R"({"k": "v"})", kOriginAssistant).dict().items()[0].key.marked().origin, "\2");
}

TEST(ParseValue, RulesForStrangers) {
  const auto message = [](std::string_view json, const ParseRules& rules) {
    const Result<Value> value = parse_value(json, kOriginUser, "here", rules);
    return value ? std::string() : value.error().message;
  };
  const ParseRules unique{.unique_keys = true};
  EXPECT_EQ(message(R"({"a": 1, "a": 1})", {}), "");
  EXPECT_EQ(message(R"({"a": {"b": 1}, "b": {"a": 1}})", unique), "");
  EXPECT_EQ(message(R"({"a": 1, "a": 1})", unique), "the key \"a\" appears twice");
  EXPECT_EQ(message(R"([{"a": {"b": 1, "\u0062": 1}}])", unique), "the key \"b\" appears twice");
  const ParseRules few{.values_max = 4};
  EXPECT_EQ(message("[1, [2], 3]", few), "has more than 4 values");
  EXPECT_EQ(message("[1, [2]]", few), "");
}

TEST(ParseValue, ErrorsDoNotRepeatTheText) {
  const Result<Value> value = parse_value("{\"a\": \"" + std::string(100'000, 'x'), kOriginUser, "here");
  ASSERT_FALSE(value);
  EXPECT_LT(value.error().message.size(), 500U);
  EXPECT_EQ(value.error().message.find("exception"), std::string::npos) << value.error().message;
}

TEST(ParseValue, RefusesWhatIsNotJson) {
  for (const std::string& json :
       {std::string(), std::string("{"), std::string("[1,]"), std::string("NaN"), std::string("\"\xff\""),
        std::string(200, '['), "[" + std::string(5000, '1') + "]", std::string("1 2")}) {
    const Result<Value> value = parse_value(json, kOriginUser, "here");
    ASSERT_FALSE(value) << json;
    EXPECT_EQ(value.error().code, ErrorCode::corrupt_data);
    EXPECT_EQ(value.error().where, "here");
  }
}

}  // namespace
}  // namespace keye::text
