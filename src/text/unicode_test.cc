#include "text/unicode.h"

#include <gtest/gtest.h>

#include "text/byte_alphabet.h"
#include "text/code_points.h"

namespace keye::text {
namespace {

std::string repaired(std::string_view text) { return repair_utf8(text, {}).text; }

TEST(Utf8, EveryCodePointSurvives) {
  for (char32_t c = 0; c <= kCodePointMax; ++c) {
    std::string bytes;
    append_utf8(c, bytes);
    const Utf8Step step = utf8_step(bytes);
    if (c >= 0xD800 && c < 0xE000) {
      ASSERT_NE(step.kind, Utf8Step::Kind::character);
      continue;
    }
    ASSERT_EQ(step.kind, Utf8Step::Kind::character);
    ASSERT_EQ(step.bytes, bytes.size());
    ASSERT_EQ(step.code_point, c);
  }
}

TEST(Utf8, MaximalInvalidPartsAreReplacedOnce) {
  EXPECT_EQ(repaired("a\xFF"
                     "b"),
            "a\uFFFDb");
  EXPECT_EQ(repaired("\xC0\x80"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(repaired("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(repaired("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xF0\x9F\x98"
                     "a"),
            "\uFFFDa");  // cut off by another character
  EXPECT_EQ(repaired("\xE4\xBD\xE4\xBD\xA0"), "\uFFFD\u4F60");
  EXPECT_EQ(repaired("x\xE4\xBD"), "x\uFFFD");  // cut off by the end
}

TEST(Utf8, UnfinishedCharactersWait) {
  std::string out;
  EXPECT_EQ(append_valid_utf8("ab\xF0\x9F\x98", out), 2u);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(append_valid_utf8("\xF0\x9F\x98\x80\xFF", out), 5u);
  EXPECT_EQ(out, "ab\U0001F600\uFFFD");
}

TEST(Utf8, CodePointsKnowWhereTheyBegin) {
  CodePoints points;
  points.assign("a\u00E9\u4F60\U0001F600");
  EXPECT_EQ(points.values, (std::vector<char32_t>{'a', 0xE9, 0x4F60, 0x1F600}));
  EXPECT_EQ(points.starts, (std::vector<uint32_t>{0, 1, 3, 6, 10}));
}

TEST(Normalize, AllForms) {
  const std::string text = "e\u0301\uFB01";
  EXPECT_EQ(normalize(NormalForm::nfc, text, {}).text, "\u00E9\uFB01");
  EXPECT_EQ(normalize(NormalForm::nfd, "\u00E9\uFB01", {}).text, text);
  EXPECT_EQ(normalize(NormalForm::nfkc, text, {}).text, "\u00E9fi");
  EXPECT_EQ(normalize(NormalForm::nfkd, "\u00E9\uFB01", {}).text, "e\u0301fi");
}

TEST(Normalize, CharactersAfterUnicode9AreLeftAlone) {
  EXPECT_EQ(normalize(NormalForm::nfkc, "\u32FF", {}).text, "\u32FF");               // the era Reiwa, of 12.1
  EXPECT_EQ(normalize(NormalForm::nfc, "a\u1DF9\u0301", {}).text, "a\u1DF9\u0301");  // a mark of 10.0 hides the letter
  EXPECT_EQ(normalize(NormalForm::nfc, "a\u0323\u0301", {}).text, "\u1EA1\u0301");
}

TEST(Normalize, OriginsGoToWhatTheirBytesBecome) {
  const std::string origin = {0, 0, 1, 1, 2, 2, 2};
  for (const auto& [form, text, expected] :
       {std::tuple(NormalForm::nfc, "ae\u0301\uFB01", std::string{0, 1, 1, 2, 2, 2}),
        std::tuple(NormalForm::nfkc, "ae\u0301\uFB01", std::string{0, 1, 1, 2, 2})}) {
    const Marked normal = normalize(form, text, origin);
    EXPECT_EQ(normal.origin, expected) << normal.text;
  }
  EXPECT_EQ(normalize(NormalForm::nfd, "\u00E9x", std::string{2, 2, 1}).origin, (std::string{2, 2, 2, 1}));
  EXPECT_EQ(normalize(NormalForm::nfkd, "\uFB01x", std::string{1, 1, 1, 0}).origin, (std::string{1, 1, 0}));
}

TEST(Normalize, QuickCheckIsRight) {
  EXPECT_TRUE(is_surely_normalized(NormalForm::nfc, "plain \u00E9"));
  EXPECT_FALSE(is_surely_normalized(NormalForm::nfc, "e\u0301"));
  EXPECT_FALSE(is_surely_normalized(NormalForm::nfd, "\u00E9"));
}

TEST(CodePointSet, AddsAndComplements) {
  const CodePointSet set = CodePointSet('a', 'c') | CodePointSet('d', 'f') | CodePointSet('x', 'x');
  EXPECT_EQ(set.ranges().size(), 2u);
  EXPECT_TRUE(set.contains('d') && set.contains('x') && !set.contains('g') && !set.contains('y'));
  EXPECT_EQ(~~set, set);
  EXPECT_EQ((set | ~set), CodePointSet(0, kCodePointMax));
  EXPECT_TRUE((~CodePointSet(0, kCodePointMax)).ranges().empty());
}

TEST(CodePointSet, CategoriesAreThoseOfUnicode16) {
  const auto count = [](const CodePointSet& set) {
    size_t n = 0;
    for (const CodePointSet::Range& range : set.ranges()) n += range.last - range.first + 1;
    return n;
  };
  EXPECT_EQ(count(*CodePointSet::category("L")), 141'028u);
  EXPECT_EQ(count(*CodePointSet::category("N")), 1'911u);
  EXPECT_EQ(count(*CodePointSet::category("Cn")), 819'533u);
  EXPECT_EQ(count(CodePointSet::white_space()), 25u);
  EXPECT_EQ(count(CodePointSet::word()), 144'667u);
  EXPECT_EQ(count(CodePointSet::numeric()), 1'924u);
  EXPECT_EQ(CodePointSet::category("Han"), std::nullopt);
  EXPECT_EQ(CodePointSet::category(""), std::nullopt);
  EXPECT_FALSE(CodePointSet::white_space().contains(0x180E));
}

TEST(ByteAlphabet, SpellsEveryByteAndBack) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  std::string back;
  append_spelled_bytes(spell_bytes(bytes), back);
  EXPECT_EQ(back, bytes);
  EXPECT_EQ(spell_bytes(" \n\u00E9"), "\u0120\u010A\u00C3\u00A9");
}

TEST(ByteAlphabet, TokensWithOtherCharactersSpellThemselves) {
  std::string out = "x";
  append_spelled_bytes("\u0120a\u4F60", out);
  EXPECT_EQ(out, "x\u0120a\u4F60");
}

}  // namespace
}  // namespace keye::text
