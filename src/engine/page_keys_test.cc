#include "engine/page_keys.h"

#include <gtest/gtest.h>

#include <set>

#include "ops/paged_kv.h"

namespace keye::engine {
namespace {

constexpr int64_t kPage = ops::kPageTokens;
constexpr int32_t kPad = 7;  // what stands for pictures

Digest named(std::string_view text) { return Sha256().add_text(text).finish(); }

prompt::VisionItem picture(std::string_view content, int64_t first, int64_t tokens) {
  prompt::VisionItem item;
  item.content = named(content);
  item.first_token = static_cast<int32_t>(first);
  item.tokens = static_cast<int32_t>(tokens);
  return item;
}

/// `pages` pages of text, with the tokens of these pictures in it.
prompt::Prompt make(int64_t pages, std::vector<prompt::VisionItem> vision = {}) {
  prompt::Prompt prompt;
  for (int64_t i = 0; i < pages * kPage; ++i) prompt.tokens.push_back(static_cast<int32_t>(100 + i % 31));
  for (const prompt::VisionItem& item : vision) {
    std::fill_n(prompt.tokens.begin() + item.first_token, item.tokens, kPad);
  }
  prompt.vision = std::move(vision);
  return prompt;
}

std::vector<Digest> keys(const prompt::Prompt& prompt, std::string_view model = "m", std::string_view salt = "s") {
  return page_keys(prompt, page_key_root(model, salt));
}

/// How many pages two prompts would share.
size_t shared(const std::vector<Digest>& a, const std::vector<Digest>& b) {
  size_t count = 0;
  while (count < std::min(a.size(), b.size()) && a[count] == b[count]) ++count;
  for (size_t i = count; i < std::min(a.size(), b.size()); ++i) EXPECT_NE(a[i], b[i]) << "a chain does not meet again";
  return count;
}

TEST(PageKeys, OnlyWholePagesHaveKeys) {
  for (const int64_t tokens : {int64_t{0}, int64_t{1}, kPage - 1, kPage, kPage + 1, 3 * kPage}) {
    prompt::Prompt prompt = make(4);
    prompt.tokens.resize(static_cast<size_t>(tokens));
    EXPECT_EQ(keys(prompt).size(), static_cast<size_t>(tokens / kPage)) << tokens;
  }
}

TEST(PageKeys, EqualBeginningsHaveEqualKeys) {
  const auto whole = keys(make(5));
  EXPECT_EQ(shared(whole, keys(make(3))), 3U);
  EXPECT_EQ(shared(whole, keys(make(5))), 5U);
  std::set<Digest> different(whole.begin(), whole.end());
  EXPECT_EQ(different.size(), 5U) << "equal tokens on different pages have different keys";
}

TEST(PageKeys, AKeyTellsOfEveryTokenBeforeIt) {
  const auto whole = keys(make(4));
  for (int64_t at = 0; at < 4 * kPage; ++at) {
    prompt::Prompt other = make(4);
    ++other.tokens[static_cast<size_t>(at)];
    EXPECT_EQ(shared(whole, keys(other)), static_cast<size_t>(at / kPage)) << at;
  }
  prompt::Prompt turned = make(4);
  std::swap(turned.tokens[3], turned.tokens[4]);
  EXPECT_EQ(shared(whole, keys(turned)), 0U);
}

/// CVE-2025-25183: a short, public hash can be met by choice. This one is SHA-256 over all that counts.
TEST(PageKeys, CVE_2025_25183_keys_are_strong_digests) {
  const prompt::Prompt prompt = make(1);
  const Digest root = page_key_root("m", "s");
  const Digest by_hand =
      Sha256().add(std::as_bytes(std::span(root.bytes))).add(std::as_bytes(std::span(prompt.tokens))).finish();
  EXPECT_EQ(page_key(root, prompt.tokens, {}, 0), by_hand);
  EXPECT_EQ(sizeof(Digest), 32U);
  std::set<Digest> seen;
  for (int32_t token = 0; token < 20'000; ++token) {
    prompt::Prompt other = make(1);
    other.tokens[5] = token;
    EXPECT_TRUE(seen.insert(keys(other)[0]).second) << token;
  }
}

TEST(PageKeys, CVE_2025_46570_salts_and_models_keep_apart) {
  const prompt::Prompt prompt = make(3);
  const auto mine = keys(prompt, "model", "salt");
  EXPECT_EQ(shared(mine, keys(prompt, "model", "salt")), 3U);
  for (const auto& [model, salt] :
       std::vector<std::pair<std::string, std::string>>{{"model", "other"},
                                                        {"other", "salt"},
                                                        {"models", "alt"},
                                                        {"model", ""},
                                                        {"", "salt"},
                                                        {"modelsalt", ""},
                                                        {"salt", "model"},
                                                        {std::string("model\0", 6), "salt"}}) {
    EXPECT_EQ(shared(mine, keys(prompt, model, salt)), 0U) << model << "|" << salt;
  }
  EXPECT_NE(features_key(named("cat"), "a"), features_key(named("cat"), "b")) << "nor are pictures encoded for both";
  EXPECT_NE(features_key(named("cat"), "a"), features_key(named("dog"), "a"));
  EXPECT_EQ(features_key(named("cat"), "a"), features_key(named("cat"), "a"));
  EXPECT_NE(features_key(named("cat"), ""), named("cat"));
}

TEST(PageKeys, CVE_2025_46722_other_pictures_of_the_same_size) {
  const int64_t first = kPage + 10;
  const auto cat = keys(make(6, {picture("cat", first, 2 * kPage)}));
  EXPECT_EQ(shared(cat, keys(make(6, {picture("cat", first, 2 * kPage)}))), 6U);
  EXPECT_EQ(shared(cat, keys(make(6, {picture("dog", first, 2 * kPage)}))), 1U);
  // Without its picture, and with the tokens alone.
  prompt::Prompt bare = make(6, {picture("cat", first, 2 * kPage)});
  bare.vision.clear();
  EXPECT_EQ(shared(cat, keys(bare)), 1U);
}

TEST(PageKeys, CVE_2025_46722_the_second_of_two_pictures) {
  const auto both = [](std::string_view one, std::string_view two) {
    return keys(make(8, {picture(one, 5, kPage), picture(two, 3 * kPage + 5, kPage)}));
  };
  EXPECT_EQ(shared(both("cat", "dog"), both("cat", "fox")), 3U);
  EXPECT_EQ(shared(both("cat", "dog"), both("dog", "cat")), 0U);
  EXPECT_EQ(shared(both("cat", "dog"), both("fox", "dog")), 0U);
  // Side by side on one page.
  const auto close = [](std::string_view one, std::string_view two) {
    return keys(make(2, {picture(one, 4, 8), picture(two, 12, 8)}));
  };
  EXPECT_EQ(shared(close("cat", "dog"), close("dog", "cat")), 0U);
  EXPECT_EQ(shared(close("cat", "cat"), close("cat", "dog")), 0U);
  EXPECT_EQ(shared(close("cat", "dog"), close("cat", "dog")), 2U);
}

/// The same tokens and the same pictures, cut in another way: 8 + 8 tokens are not 4 + 12.
TEST(PageKeys, CVE_2025_46722_boundaries_of_pictures) {
  const auto cut = [](int64_t where) {
    return keys(make(2, {picture("cat", 4, where), picture("dog", 4 + where, 16 - where)}));
  };
  EXPECT_EQ(shared(cut(8), cut(8)), 2U);
  EXPECT_EQ(shared(cut(8), cut(4)), 0U);
  const auto one = keys(make(2, {picture("cat", 4, 16)}));
  EXPECT_EQ(shared(one, cut(8)), 0U);
  // A picture over a page's end: its second half is not another picture's first.
  const auto over = keys(make(3, {picture("cat", kPage - 8, 16)}));
  const auto late = keys(make(3, {picture("cat", kPage, 8)}));
  EXPECT_EQ(shared(over, late), 0U);
}

/// Another size before it moves a picture's tokens: then nothing is shared from there on.
TEST(PageKeys, CVE_2025_46722_places_of_pictures) {
  std::set<Digest> seen;
  for (int64_t first = 0; first <= kPage; ++first) {
    prompt::Prompt prompt = make(3, {picture("cat", first, kPage)});
    std::fill(prompt.tokens.begin(), prompt.tokens.end(), kPad);  // so that only the place differs
    EXPECT_TRUE(seen.insert(keys(prompt)[0]).second) << first;
  }
}

TEST(PageKeys, GenerationGoesOnWithTheSameChain) {
  const prompt::Prompt prompt = make(4, {picture("cat", 10, 20)});
  const auto all = keys(prompt);
  Digest key = page_key_root("m", "s");
  for (int64_t page = 0; page < 4; ++page) {
    key = page_key(key, prompt.tokens, prompt.vision, page * kPage);
    EXPECT_EQ(key, all[static_cast<size_t>(page)]);
  }
}

}  // namespace
}  // namespace keye::engine
