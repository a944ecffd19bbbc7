#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace keye::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json byte_level(bool prefix = false, bool use_regex = false) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json split(const char* pattern, const char* behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

Json sequence(std::initializer_list<Json> parts) {
  Json all = {{"type", "Sequence"}, {"pretokenizers", Json::array()}};
  for (const Json& part : parts) all["pretokenizers"].push_back(part);
  return all;
}

std::vector<std::string> words(const Json& json, const std::string& text) {
  const auto pre_tokenizer = PreTokenizer::parse(json, "test");
  EXPECT_TRUE(pre_tokenizer) << pre_tokenizer.error().to_string();
  PreTokenizer::Scratch scratch;
  std::vector<std::string_view> views;
  pre_tokenizer->split(text, scratch, views);
  return {views.begin(), views.end()};
}

std::vector<std::string> cut(const char* pattern, const char* behavior, bool invert, const std::string& text) {
  return words(sequence({split(pattern, behavior, invert), byte_level()}), text);
}

// The library's own documentation of the behaviours splits this text at "-".
TEST(PreTokenizer, Behaviors) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(cut("-", "Removed", false, text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(cut("-", "Isolated", false, text), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(cut("-", "MergedWithPrevious", false, text), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(cut("-", "MergedWithNext", false, text), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(cut("-", "Contiguous", false, text), ElementsAre("the", "-", "final", "--", "countdown"));
}

TEST(PreTokenizer, InvertedSplitsTreatTheRestAsMatches) {
  EXPECT_THAT(cut("[a-z]+", "Removed", true, "ab, cd"), ElementsAre("ab", "cd"));
  EXPECT_THAT(cut("[a-z]+", "MergedWithPrevious", true, "ab, cd"), ElementsAre("ab, ", "cd"));
}

TEST(PreTokenizer, EveryPieceIsATextOfItsOwn) {
  // Behind the digit, the second split sees the end of a text: the spaces before it stay together.
  EXPECT_THAT(
      words(sequence({split("\\p{N}", "Isolated"), split("\\s+(?!\\S)|\\s+", "Isolated"), byte_level()}), "a   1"),
      ElementsAre("a", "   ", "1"));
}

TEST(PreTokenizer, Digits) {
  const Json individual = {{"type", "Digits"}, {"individual_digits", true}};
  const Json contiguous = {{"type", "Digits"}, {"individual_digits", false}};
  EXPECT_THAT(words(sequence({individual, byte_level()}), "a12\u00BD"), ElementsAre("a", "1", "2", "\u00BD"));
  EXPECT_THAT(words(sequence({contiguous, byte_level()}), "a12\u00BD"), ElementsAre("a", "12\u00BD"));
}

TEST(PreTokenizer, ByteLevelsOwnPattern) {
  EXPECT_THAT(words(byte_level(false, true), "I'm  12 ok!?"), ElementsAre("I", "'m", " ", " 12", " ok", "!?"));
  EXPECT_THAT(words(byte_level(false, false), "I'm 12"), ElementsAre("I'm 12"));
}

TEST(PreTokenizer, PrefixSpaceComesBeforeEveryPieceWithoutOne) {
  EXPECT_THAT(words(byte_level(true, true), "ab cd"), ElementsAre(" ab", " cd"));
  EXPECT_THAT(words(sequence({split("-", "Removed"), byte_level(true, false)}), "ab- c-\td"),
              ElementsAre(" ab", " c", " \td"));
}

TEST(PreTokenizer, StringPatternsAreNoRegularExpressions) {
  Json part = split("x", "Removed");
  part["pattern"] = {{"String", "."}};
  EXPECT_THAT(words(sequence({part, byte_level()}), "a.b"), ElementsAre("a", "b"));
}

TEST(PreTokenizer, RefusesByName) {
  const auto refusal = [](const Json& json) {
    const auto parsed = PreTokenizer::parse(json, "test");
    return parsed ? "accepted" : parsed.error().to_string();
  };
  EXPECT_THAT(refusal(sequence({byte_level(), split("a", "Isolated")})),
              HasSubstr("test.pretokenizers[1]: \"Split\" after ByteLevel is not supported"));
  EXPECT_THAT(refusal(sequence({split("a", "Somehow"), byte_level()})), HasSubstr("behavior \"Somehow\""));
  EXPECT_THAT(refusal(sequence({split("", "Isolated"), byte_level()})), HasSubstr("an empty pattern"));
  EXPECT_THAT(refusal(sequence({split("(", "Isolated"), byte_level()})), HasSubstr("pattern: regular expression"));
  EXPECT_THAT(refusal(sequence({split("a", "Isolated")})), HasSubstr("no ByteLevel"));
  Json many = sequence({});
  for (int i = 0; i < 40; ++i) many["pretokenizers"].push_back(split("a", "Isolated"));
  EXPECT_THAT(refusal(many), HasSubstr("test.pretokenizers[32]: more than 32 splits"));
  EXPECT_THAT(refusal({{"type", "ByteLevel"}}), HasSubstr("field \"add_prefix_space\" is missing"));
}

}  // namespace
}  // namespace keye::text
