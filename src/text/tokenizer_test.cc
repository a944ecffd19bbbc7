#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "text/marked.h"
#include "text/small_tokenizer.h"

namespace keye::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

Tokenizer make(const Json& json) {
  auto made = read(json);
  EXPECT_TRUE(made) << made.error().to_string();
  return *std::move(made);
}

std::string refusal(const Json& json) {
  const auto made = read(json);
  return made ? "accepted" : made.error().to_string();
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const Tokenizer tokenizer = make(small_tokenizer({{"b", "c"}, {"a", "b"}, {"a", "a"}}));
  EXPECT_THAT(tokenizer.encode("abc"), ElementsAre('a', 256));
  EXPECT_THAT(tokenizer.encode("ab"), ElementsAre(257));
  EXPECT_THAT(tokenizer.encode("aaa"), ElementsAre(258, 'a'));
}

TEST(Bpe, QueuedMergeOfAChangedPairIsOff) {
  // b+c is queued by rank 1, but a+b takes the b first; ab+c then has a rank of its own.
  const Tokenizer tokenizer = make(small_tokenizer({{"a", "b"}, {"b", "c"}, {"c", "d"}, {"ab", "c"}}));
  EXPECT_THAT(tokenizer.encode("abc"), ElementsAre(259));
  EXPECT_THAT(tokenizer.encode("abcd"), ElementsAre(256, 258));
}

TEST(Bpe, LastOfEqualMergesCounts) {
  const Tokenizer tokenizer = make(small_tokenizer({{"a", "b"}, {"b", "c"}, {"a", "b"}}));
  EXPECT_THAT(tokenizer.encode("abc"), ElementsAre('a', 257));
}

TEST(Bpe, ReadsMergesWithSpacesAndSkipsTheirVersion) {
  Json json = small_tokenizer({{"a", "b"}});
  json["model"]["merges"] = {"#version: 0.2", "a b"};
  EXPECT_THAT(make(json).encode("ab"), ElementsAre(256));
}

TEST(Bpe, WholeWordsFirstWhereMergesAreIgnored) {
  Json json = small_tokenizer({{"a", "b"}});
  json["model"]["vocab"]["abc"] = 257;
  EXPECT_THAT(make(json).encode("abc"), ElementsAre(256, 'c'));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(make(json).encode("abc"), ElementsAre(257));
}

TEST(Bpe, BytesWithoutATokenAreUnknownOrLeftOut) {
  Json json = small_tokenizer();
  json["model"]["vocab"].erase("x");
  json["model"]["vocab"]["<unk>"] = 'x';
  EXPECT_THAT(make(json).encode("axxb"), ElementsAre('a', 'b'));
  json["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(make(json).encode("axxb"), ElementsAre('a', 'x', 'x', 'b'));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(make(json).encode("axxb"), ElementsAre('a', 'x', 'b'));
}

TEST(Bpe, RepeatedWordsOfLongTextsAreTheSame) {
  Json json = small_tokenizer({{"a", "b"}, {"ab", "ab"}});
  json["pre_tokenizer"]["use_regex"] = true;
  const Tokenizer tokenizer = make(json);
  std::string text;
  Ids expected;
  for (int i = 0; i < 2000; ++i) {
    const std::string word = fmt::format(" {}bab", std::string(static_cast<size_t>(i % 7), 'a'));
    const Ids ids = tokenizer.encode(word);
    expected.insert(expected.end(), ids.begin(), ids.end());
    text += word;
  }
  EXPECT_EQ(tokenizer.encode(text), expected);
}

TEST(Bpe, OneWordOfAMegabyteTakesNoLongTime) {
  const Tokenizer tokenizer = make(small_tokenizer({{"a", "a"}, {"aa", "aa"}, {"a", "b"}}));
  const Ids ids = tokenizer.encode(std::string(1'000'003, 'a'));
  ASSERT_EQ(ids.size(), 250'000u + 2);
  EXPECT_EQ(ids[0], 257);
  EXPECT_EQ(ids[250'000], 256);
  EXPECT_EQ(ids[250'001], 'a');
}

TEST(AddedTokens, LongestFirstAndNextToAnother) {
  Json json = small_tokenizer();
  const int32_t s = add_token(json, "<s>");
  const int32_t sx = add_token(json, "<s>x");
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("<s><s>xy<s"), ElementsAre(s, sx, 'y', '<', 's'));
  EXPECT_THAT(tokenizer.encode_plain("<s>"), ElementsAre('<', 's', '>'));
  EXPECT_TRUE(tokenizer.is_added(s));
  EXPECT_FALSE(tokenizer.is_added('a'));
}

TEST(AddedTokens, SingleWord) {
  Json json = small_tokenizer();
  const int32_t id = add_token(json, "ab", {.single_word = true});
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("ab ab. cab aba ab"),
              ElementsAre(id, ' ', id, '.', ' ', 'c', 'a', 'b', ' ', 'a', 'b', 'a', ' ', id));
  EXPECT_EQ(tokenizer.encode("\u00E9ab").size(), 4u);  // after a letter
  EXPECT_EQ(tokenizer.encode("\u200Dab").size(), 5u);  // after a joiner
  EXPECT_EQ(tokenizer.encode("\u2014ab").back(), id);  // after a dash
}

TEST(AddedTokens, TakeTheSpaceAroundThem) {
  Json json = small_tokenizer();
  const int32_t left = add_token(json, "<l>", {.lstrip = true});
  const int32_t right = add_token(json, "<r>", {.rstrip = true});
  const int32_t line = add_token(json, "\n");
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("a \u3000<l> b"), ElementsAre('a', left, ' ', 'b'));
  EXPECT_THAT(tokenizer.encode("a <r>\t b"), ElementsAre('a', ' ', right, 'b'));
  EXPECT_THAT(tokenizer.encode("<r>  <l>"), ElementsAre(right, left));
  // A token in the space that another took is found all the same, and the text goes on behind it.
  EXPECT_THAT(tokenizer.encode("<r> \n b"), ElementsAre(right, line, ' ', 'b'));
}

TEST(AddedTokens, NormalizedOnesAreSearchedInTheNormalizedText) {
  Json json = small_tokenizer();
  json["normalizer"] = {{"type", "NFC"}};
  const int32_t normalized = add_token(json, "e\u0301!", {.normalized = true});
  const int32_t raw = add_token(json, "o\u0301!");
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("\u00E9!"), ElementsAre(normalized));
  EXPECT_THAT(tokenizer.encode("e\u0301!"), ElementsAre(normalized));
  EXPECT_THAT(tokenizer.encode("o\u0301!"), ElementsAre(raw));
  EXPECT_THAT(tokenizer.encode("\u00F3!"), ElementsAre(0xC3, 0xB3, '!'));
  EXPECT_EQ(tokenizer.id_to_token(normalized), "\u00E9!");  // which spells the byte E9 and "!"
  EXPECT_EQ(tokenizer.token_bytes(normalized), "\xE9!");
}

TEST(AddedTokens, UsersCannotWriteThem) {
  Json json = small_tokenizer();
  const int32_t end = add_token(json, "<e>", {.special = true});
  const int32_t think = add_token(json, "<t>");
  const int32_t longer = add_token(json, "<e><e>", {.special = true});
  const Tokenizer tokenizer = make(json);
  const auto by = [](char origin, const char* text) { return Marked(std::string(text), origin); };
  const auto encode = [&](std::initializer_list<Marked> parts) {
    Marked all;
    for (const Marked& part : parts) all.append(part);
    return tokenizer.encode(all.text, all.origin);
  };
  EXPECT_THAT(encode({by(kOriginEngine, "<e><t>")}), ElementsAre(end, think));
  EXPECT_THAT(encode({by(kOriginUser, "<e><t>")}), ElementsAre('<', 'e', '>', '<', 't', '>'));
  EXPECT_THAT(encode({by(kOriginAssistant, "<e><t>")}), ElementsAre('<', 'e', '>', think));
  EXPECT_THAT(encode({by(kOriginEngine, "<e"), by(kOriginUser, ">"), by(kOriginEngine, "<e>")}),
              ElementsAre('<', 'e', '>', end));
  EXPECT_THAT(encode({by(kOriginEngine, "<t"), by(kOriginAssistant, ">")}), ElementsAre(think));
  EXPECT_THAT(encode({by(kOriginEngine, "<e><e>")}), ElementsAre(longer));
  EXPECT_THAT(encode({by(kOriginEngine, "<e>"), by(kOriginUser, "<e>")}), ElementsAre(end, '<', 'e', '>'));
}

TEST(AddedTokens, OriginsFollowNormalization) {
  Json json = small_tokenizer();
  json["normalizer"] = {{"type", "NFKC"}};
  const int32_t id = add_token(json, "<e>", {.normalized = true, .special = true});
  const Tokenizer tokenizer = make(json);
  const std::string wide = "\uFF1Ce\uFF1E";  // "<e>" in full-width brackets, 7 bytes
  EXPECT_THAT(tokenizer.encode(wide + "<e>"), ElementsAre(id, id));
  EXPECT_THAT(tokenizer.encode(wide + "<e>", std::string(7, kOriginUser) + std::string(3, kOriginEngine)),
              ElementsAre('<', 'e', '>', id));
  EXPECT_THAT(tokenizer.encode(wide + "<e>", std::string(9, kOriginEngine) + std::string(1, kOriginUser)),
              ElementsAre(id, '<', 'e', '>'));
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const Tokenizer tokenizer = make(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("a\xFF\xE4\xBD"
                             "b\xF0\x9F\x98"),
            tokenizer.encode("a\uFFFD\uFFFDb\uFFFD"));
  EXPECT_EQ(tokenizer.encode_plain("\xC3"), tokenizer.encode("\uFFFD"));
  Json json = small_tokenizer();
  const int32_t id = add_token(json, "<\uFFFD>");
  const std::string origin = {kOriginEngine, kOriginUser, kOriginEngine};
  EXPECT_THAT(make(json).encode("<\xFF>"), ElementsAre(id));
  EXPECT_EQ(make(json).encode("<\xFF>", origin).size(), 5u);
}

TEST(Tokenizer, DecodesBytesAddedTokensAndUnknownIds) {
  Json json = small_tokenizer();
  const int32_t special = add_token(json, "<\uFF5C>", {.special = true});
  const int32_t plain = add_token(json, "<t>");
  const Tokenizer tokenizer = make(json);
  const Ids ids = {0xC3, 0xA9, special, 99'999, -5, plain, 0xFF};
  EXPECT_EQ(tokenizer.decode(ids, false), "\u00E9<\uFF5C><t>\uFFFD");
  EXPECT_EQ(tokenizer.decode(ids, true), "\u00E9<t>\uFFFD");
  EXPECT_EQ(tokenizer.vocabulary_size(), 258);
  EXPECT_TRUE(tokenizer.is_special(special));
  EXPECT_FALSE(tokenizer.is_special(plain));
}

TEST(Tokenizer, ManyThreadsCanEncodeAtOnce) {
  Json json = small_tokenizer({{"a", "b"}, {"ab", "c"}});
  json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"]["use_regex"] = true;
  add_token(json, "<s>", {.lstrip = true, .normalized = true});
  const Tokenizer tokenizer = make(json);
  std::string text;
  for (int i = 0; i < 500; ++i) text += "abc e\u0301 <s> 12 \u4F60";
  const Ids expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int run = 0; run < 10; ++run) ASSERT_EQ(tokenizer.encode(text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerErrors, NameWhatIsNotSupported) {
  const auto with = [](const char* pointer, const Json& value) {
    Json json = small_tokenizer({{"a", "b"}});
    json[Json::json_pointer(pointer)] = value;
    return refusal(json);
  };
  EXPECT_THAT(with("/model/type", "WordPiece"), HasSubstr("test: model: model \"WordPiece\" is not supported"));
  EXPECT_THAT(with("/model/byte_fallback", true), HasSubstr("model.byte_fallback: is not supported"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("model.dropout: is not supported"));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"), HasSubstr("model.end_of_word_suffix"));
  EXPECT_THAT(with("/model/continuing_subword_prefix", "##"), HasSubstr("model.continuing_subword_prefix"));
  EXPECT_THAT(with("/normalizer", {{"type", "Lowercase"}}), HasSubstr("normalizer \"Lowercase\" is not supported"));
  EXPECT_THAT(with("/normalizer", {{"type", "Sequence"}, {"normalizers", Json::array_t(9, {{"type", "NFC"}})}}),
              HasSubstr("normalizer.normalizers[8]: more than 8 normal forms"));
  EXPECT_THAT(with("/pre_tokenizer", {{"type", "Metaspace"}}), HasSubstr("pre-tokenizer \"Metaspace\""));
  EXPECT_THAT(with("/pre_tokenizer", nullptr), HasSubstr("no ByteLevel"));
  EXPECT_THAT(with("/decoder", {{"type", "Fuse"}}), HasSubstr("decoder \"Fuse\" is not supported"));
  EXPECT_THAT(with("/decoder", nullptr), HasSubstr("no decoder"));
  EXPECT_THAT(with("/post_processor", {{"type", "BertProcessing"}}), HasSubstr("post-processor \"BertProcessing\""));
  EXPECT_THAT(with("/truncation", {{"max_length", 8}}), HasSubstr("\"truncation\" is not supported"));
  EXPECT_THAT(with("/version", "2.0"), HasSubstr("version \"2.0\" is not supported"));
  EXPECT_THAT(with("/extra", 1), HasSubstr("field \"extra\" is not known"));
  EXPECT_EQ(with("/model/dropout", 0.0), "accepted");
  EXPECT_EQ(with("/model/end_of_word_suffix", ""), "accepted");
  EXPECT_EQ(with("/post_processor", {{"type", "TemplateProcessing"}, {"single", Json::array()}}), "accepted");
}

TEST(TokenizerErrors, FindContradictions) {
  const auto with = [](const char* pointer, const Json& value) {
    Json json = small_tokenizer({{"a", "b"}});
    add_token(json, "<s>");
    json[Json::json_pointer(pointer)] = value;
    return refusal(json);
  };
  EXPECT_THAT(with("/model/vocab/ab", 4'194'304), HasSubstr("token \"ab\" has id 4194304, expected 0 to 4194303"));
  EXPECT_THAT(with("/model/vocab/ab", -1), HasSubstr("has id -1"));
  EXPECT_THAT(with("/model/vocab/ab", 1e300), HasSubstr("has id 1e+300"));
  EXPECT_THAT(with("/model/vocab/ab", UINT64_MAX), HasSubstr("has id 18446744073709551615"));
  EXPECT_THAT(with("/model/vocab/ab", 97), HasSubstr("both have id 97"));
  EXPECT_THAT(with("/model/vocab", Json::array()), HasSubstr("model.vocab: expected an object, found array"));
  EXPECT_THAT(with("/model/merges/0", {"a", "zz"}), HasSubstr("model.merges[0]: \"zz\" is not in vocab"));
  EXPECT_THAT(with("/model/merges/0", {"b", "a"}), HasSubstr("model.merges[0]: \"ba\" is not in vocab"));
  EXPECT_THAT(with("/model/merges/0", "a b c"), HasSubstr("expected two tokens with a space between, found \"a b c\""));
  EXPECT_THAT(with("/model/merges/0", {"a"}), HasSubstr("expected an array of two tokens, found an array of 1"));
  EXPECT_THAT(with("/model/unk_token", "<none>"), HasSubstr("model.unk_token: \"<none>\" is not in vocab"));
  EXPECT_THAT(with("/added_tokens/0/id", 300), HasSubstr("\"<s>\" has id 300, expected 257 (the next free one)"));
  EXPECT_THAT(with("/added_tokens/0/content", "ab"), HasSubstr("expected 256 (its id in the vocabulary)"));
  EXPECT_THAT(with("/added_tokens/0/content", ""), HasSubstr("expected 1 to 1024 bytes, found 0"));
  EXPECT_THAT(with("/added_tokens/0/special", 1), HasSubstr("expected true or false, found 1"));
  EXPECT_THAT(with("/model/vocab/ab", 257), HasSubstr("257 is too large or taken"));
  EXPECT_THAT(with("/pre_tokenizer/use_regex", "no"), HasSubstr("expected true or false, found \"no\""));

  Json twice = small_tokenizer();
  add_token(twice, "<s>");
  twice["added_tokens"].push_back(twice["added_tokens"][0]);
  twice["added_tokens"][1]["id"] = 257;
  EXPECT_THAT(refusal(twice), HasSubstr("added_tokens[1].content: \"<s>\" is there already"));

  EXPECT_THAT(Tokenizer::from_json("{", "f.json").error().to_string(), HasSubstr("f.json"));
  EXPECT_THAT(Tokenizer::from_json("{}", "f.json").error().to_string(), HasSubstr("field \"model\" is missing"));
  EXPECT_EQ(Tokenizer::load("does/not/exist.json").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace keye::text
