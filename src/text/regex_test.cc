#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/unicode.h"

namespace keye::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> all_of(const Regex& regex, std::string_view text) {
  CodePoints points;
  points.assign(text);
  std::vector<uint8_t> kinds;
  regex.classify(points.values, kinds);
  Regex::Scratch scratch;
  RegexMatches matches(regex, kinds, scratch);
  std::vector<std::string> found;
  while (const auto match = matches.next()) {
    found.emplace_back(
        text.substr(points.starts[match->first], points.starts[match->last] - points.starts[match->first]));
  }
  return found;
}

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  auto regex = Regex::compile(pattern, "test");
  EXPECT_TRUE(regex) << regex.error().to_string();
  return all_of(*regex, text);
}

std::string refusal(std::string_view pattern) {
  const auto regex = Regex::compile(pattern, "test");
  return regex ? "accepted" : regex.error().to_string();
}

TEST(Regex, GroupsQuantifiersAndLookaround) {
  EXPECT_THAT(matches("a|bc?", "abbca"), ElementsAre("a", "b", "bc", "a"));
  EXPECT_THAT(matches("(?:ab)+|(c)d", "ababcd"), ElementsAre("abab", "cd"));
  EXPECT_THAT(matches("\\d{1,3}", "1234567"), ElementsAre("123", "456", "7"));
  EXPECT_THAT(matches("x{,2}y", "xxxy"), ElementsAre("xxy"));
  EXPECT_THAT(matches("a+?b?", "aab"), ElementsAre("a", "ab"));
  EXPECT_THAT(matches("a++b|a", "aab aa"), ElementsAre("aab", "a", "a"));
  EXPECT_THAT(matches("\\s+(?!\\S)|\\s+", "a   b "), ElementsAre("  ", " ", " "));
  EXPECT_THAT(matches("(?<=a)b|(?<!a)c", "abcac"), ElementsAre("b", "c"));
}

TEST(Regex, ClassesAreOfCodePoints) {
  EXPECT_THAT(matches("\\p{L}+", "h\u00E9 \u4F60\u597D \U00031350"),
              ElementsAre("h\u00E9", "\u4F60\u597D", "\U00031350"));
  EXPECT_THAT(matches("[^\\s\\p{L}\\p{N}]+", "a+-1 \u3002\U0001F600"), ElementsAre("+-", "\u3002\U0001F600"));
  EXPECT_THAT(matches("[\u4E00-\u9FA5\u3040-\u309F]+", "a\u4F60\u3042b"), ElementsAre("\u4F60\u3042"));
  EXPECT_THAT(matches("[\\]\\-&a-c]+|\\P{L}", "]-&abd1"), ElementsAre("]-&ab", "1"));
  EXPECT_THAT(matches("\\s", "\u180E\u3000\u200B"), ElementsAre("\u3000"));
  EXPECT_THAT(matches("\\x41\\x{42}\\u0043.", "ABC\nABCD"), ElementsAre("ABCD"));
}

TEST(Regex, CaseIsFoldedAsOnigurumaDoes) {
  EXPECT_THAT(matches("(?i:'s|'k)", "'s 'S '\u017F '\u212A"), ElementsAre("'s", "'S", "'\u017F", "'\u212A"));
  EXPECT_THAT(matches("(?i:[a-c]x)d", "aXd AxD"), ElementsAre("aXd"));
}

TEST(Regex, EmptyMatchesBehindAMatchDoNotCount) {
  EXPECT_THAT(matches("a*", "aab"), ElementsAre("aa", ""));
  EXPECT_THAT(matches("(?=b)", "abb"), ElementsAre("", ""));
}

TEST(Regex, LiteralsAndSets) {
  EXPECT_THAT(all_of(*Regex::literal("a.*", "test"), "a.*ab"), ElementsAre("a.*"));
  EXPECT_THAT(all_of(Regex::one_of(CodePointSet('0', '4')), "1592"), ElementsAre("1", "2"));
}

TEST(Regex, NamesWhatItDoesNotSupport) {
  EXPECT_THAT(refusal("^a"), HasSubstr("byte 0: the anchor ^ is not supported"));
  EXPECT_THAT(refusal("(?i)a"), HasSubstr("a group that begins with \"(?i)\""));
  EXPECT_THAT(refusal("(?<name>a)"), HasSubstr("a group that begins with"));
  EXPECT_THAT(refusal("(?>a|b)c"), HasSubstr("a group that begins with \"(?>a\""));
  EXPECT_THAT(refusal("(?:a|b)++c"), HasSubstr("a group repeated without backtracking"));
  EXPECT_THAT(refusal("(a)\\1"), HasSubstr("\\1 is not supported"));
  EXPECT_THAT(refusal("\\bword"), HasSubstr("\\b is not supported"));
  EXPECT_THAT(refusal("\\p{Han}"), HasSubstr("the property \"Han\""));
  EXPECT_THAT(refusal("[a&&b]"), HasSubstr("an intersection of classes"));
  EXPECT_THAT(refusal("[[:alpha:]]"), HasSubstr("a class inside a class"));
  EXPECT_THAT(refusal("(?i:\u00E9)"), HasSubstr("beyond ASCII where case is ignored"));
  EXPECT_THAT(refusal("(?i:ss)"), HasSubstr("\"ss\" where case is ignored"));
  EXPECT_THAT(refusal("(?i:\\p{Lu})"), HasSubstr("a class where case is ignored"));
  EXPECT_THAT(refusal("a{2}+"), HasSubstr("\"+\" after a counted repetition"));
  EXPECT_THAT(refusal("a**"), HasSubstr("\"*\" after nothing"));
  EXPECT_THAT(refusal("(?=a)*"), HasSubstr("\"*\" after nothing"));
  EXPECT_THAT(refusal("a{x"), HasSubstr("a brace that is no count"));
  EXPECT_THAT(refusal("a{2000}"), HasSubstr("a count over 1000"));
  EXPECT_THAT(refusal("(?<=a+)b"), HasSubstr("regular expression \"(?<=a+)b\": lookbehind"));
  EXPECT_THAT(refusal(std::string(100, '(')), HasSubstr("nesting deeper than 64 groups"));
  EXPECT_THAT(refusal(std::string(5000, 'a')), HasSubstr("a regular expression of 5000 bytes"));
  EXPECT_THAT(Regex::literal(std::string(5000, 'a'), "test").error().to_string(), HasSubstr("a pattern of 5000 bytes"));
  std::string kinds;
  for (char32_t c = 0x4E00; c < 0x4F00; ++c) append_utf8(c, kinds);
  EXPECT_THAT(refusal(kinds), HasSubstr("distinguishes over 256 kinds of characters"));
}

TEST(Regex, FindsWhatIsNoPattern) {
  EXPECT_THAT(refusal("(a"), HasSubstr("a group is not closed"));
  EXPECT_THAT(refusal("a)"), HasSubstr("nothing is open to be closed"));
  EXPECT_THAT(refusal("[a"), HasSubstr("a class is not closed"));
  EXPECT_THAT(refusal("[b-a]"), HasSubstr("a range from high to low"));
  EXPECT_THAT(refusal("a\\"), HasSubstr("a backslash at the end"));
  EXPECT_THAT(refusal("\\x{110000}"), HasSubstr("no character has this number"));
  EXPECT_THAT(refusal("\xFF"), HasSubstr("not valid UTF-8"));
}

TEST(Regex, EndlessSearchEnds) {
  // Exponential in principle: the limit ends it as if nothing matched.
  EXPECT_TRUE(matches("(?:a|aa)+(?:b|c)d", std::string(4000, 'a')).empty());
  // Deep, not long: more nested choices than the stack of compiled patterns holds.
  EXPECT_EQ(matches("(?:a|b)+c", std::string(200'000, 'a') + "c").size(), 1u);
}

}  // namespace
}  // namespace keye::text
