#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/small_tokenizer.h"
#include "text/unicode.h"

namespace keye::text {
namespace {

Tokenizer bytes_and_specials() {
  Json json = small_tokenizer();
  add_token(json, "<\uFF5C>", {.special = true});
  add_token(json, "<t>");
  return *read(json);
}

TEST(Detokenizer, HoldsBackPartsOfCharacters) {
  const Tokenizer tokenizer = bytes_and_specials();
  Detokenizer detokenizer(tokenizer, false);
  EXPECT_EQ(detokenizer.push('a'), "a");
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.push(0x9F), "");
  EXPECT_EQ(detokenizer.push(0x98), "");
  EXPECT_EQ(detokenizer.push(0x80), "\U0001F600");
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.push(257), "\uFFFD<t>");
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.flush(), "");
  EXPECT_EQ(detokenizer.push('b'), "b");
}

TEST(Detokenizer, SkipsSpecialTokensOnRequest) {
  const Tokenizer tokenizer = bytes_and_specials();
  EXPECT_EQ(Detokenizer(tokenizer, false).push(256), "<\uFF5C>");
  EXPECT_EQ(Detokenizer(tokenizer, true).push(256), "");
  EXPECT_EQ(Detokenizer(tokenizer, true).push(257), "<t>");
}

TEST(Detokenizer, JoinedPiecesAreTheWholeDecoded) {
  const Tokenizer tokenizer = bytes_and_specials();
  std::mt19937 random(1);
  // Bytes that begin and continue characters, often enough in the right order.
  const int32_t likely[] = {'a', 0xC3, 0xA9, 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xF4, 0x8F, 256, 257};
  for (int run = 0; run < 20'000; ++run) {
    std::vector<int32_t> ids(random() % 12);
    for (int32_t& id : ids) {
      id = random() % 4 == 0 ? static_cast<int32_t>(random() % 260) : likely[random() % std::size(likely)];
    }
    const bool skip = random() % 2 == 0;
    Detokenizer detokenizer(tokenizer, skip);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.push(id);
      ASSERT_TRUE(is_utf8(piece));
      joined += piece;
    }
    joined += detokenizer.flush();
    ASSERT_EQ(joined, tokenizer.decode(ids, skip));
  }
}

}  // namespace
}  // namespace keye::text
