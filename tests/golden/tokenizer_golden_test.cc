// Against what Hugging Face's tokenizers gave (tests/golden/tokenizers).
#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>

#include "base/json.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace keye::text {
namespace {

const Path kFolder = "tests/golden/tokenizers";

/// gzopen() reads plain files too.
std::string read_packed(const Path& path) {
  std::string bytes;
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return bytes;
  char block[65536];
  for (int got = 0; (got = gzread(file, block, sizeof block)) > 0;) bytes.append(block, static_cast<size_t>(got));
  gzclose(file);
  return bytes;
}

std::vector<int32_t> ids_of(const Json& row) { return row["ids"].get<std::vector<int32_t>>(); }

class TokenizerGolden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    const Path plain = kFolder / (name + ".tokenizer.json");
    const Path path = std::filesystem::exists(plain) ? plain : kFolder / (name + ".tokenizer.json.gz");
    auto read = Tokenizer::from_json(read_packed(path), path.string());
    ASSERT_TRUE(read) << read.error().to_string();
    tokenizer_ = std::make_unique<Tokenizer>(*std::move(read));
    auto golden = read_json(kFolder / (name + ".expected.json"));
    ASSERT_TRUE(golden) << golden.error().to_string();
    golden_ = *std::move(golden);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Json golden_;
};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryText) {
  ASSERT_EQ(golden_["encode"].size(), 111u);
  for (const Json& row : golden_["encode"]) {
    const std::string text = row["text"];
    EXPECT_EQ(tokenizer_->encode(text), ids_of(row)) << text;
    EXPECT_EQ(tokenizer_->decode(ids_of(row), false), row["decoded"]) << text;
    EXPECT_EQ(tokenizer_->decode(ids_of(row), true), row["decoded_without_special"]) << text;
  }
}

TEST_P(TokenizerGolden, DecodesCutAndInvalidSequences) {
  ASSERT_GT(golden_["decode_fragments"].size(), 20u);
  ASSERT_GT(golden_["decode_invalid_utf8"].size(), 10u);
  for (const char* section : {"decode_fragments", "decode_invalid_utf8"}) {
    for (const Json& row : golden_[section]) {
      EXPECT_EQ(tokenizer_->decode(ids_of(row), false), row["decoded"]) << row;
      std::string joined;
      Detokenizer detokenizer(*tokenizer_, false);
      for (const int32_t id : ids_of(row)) joined += detokenizer.push(id);
      EXPECT_EQ(joined + detokenizer.flush(), row["decoded"]) << row;
    }
  }
}

TEST_P(TokenizerGolden, KnowsTheTokenOfEveryByte) {
  ASSERT_EQ(golden_["single_bytes"].size(), 256u);
  for (const Json& row : golden_["single_bytes"]) {
    const std::optional<int32_t> id = tokenizer_->token_to_id(row["token"].get<std::string>());
    ASSERT_TRUE(id) << row;
    EXPECT_EQ(*id, row["id"]);
    EXPECT_EQ(tokenizer_->id_to_token(*id), row["token"]);
    EXPECT_EQ(tokenizer_->token_bytes(*id), std::string(1, static_cast<char>(row["byte"].get<int>())));
    EXPECT_EQ(tokenizer_->decode(std::vector{*id}, false), row["decoded"]);
  }
}

TEST_P(TokenizerGolden, HasTheVocabularysSize) {
  EXPECT_EQ(tokenizer_->vocabulary_size(), golden_["vocab_size_with_added"]);
  for (int32_t id = 0; id < tokenizer_->vocabulary_size(); ++id) {
    const std::optional<std::string> token = tokenizer_->id_to_token(id);
    ASSERT_TRUE(token) << id;
    ASSERT_EQ(tokenizer_->token_to_id(*token), id) << *token;
  }
  EXPECT_EQ(tokenizer_->id_to_token(tokenizer_->vocabulary_size()), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         testing::Values("small-qwen", "small-qwen-vision", "small-deepseek", "small-deepseek-vision",
                                         "qwen2-keye", "deepseek"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace keye::text
