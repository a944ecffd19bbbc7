#include "loadtest/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "base/json.h"

namespace keye::loadtest {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

Json parsed(const Body& body) { return *parse_json(body.head + std::string(body.picture) + body.tail, "body"); }

TEST(PromptText, SameNumbersSameWords) {
  const Config config{.prompt_words = 30, .seed = 5};
  EXPECT_EQ(prompt_text(config, 7), prompt_text(config, 7));
  EXPECT_EQ(words_of(prompt_text(config, 7)).size(), 30U);
  EXPECT_EQ(prompt_text({.prompt_words = 1}, 0).find(' '), std::string::npos);
}

TEST(PromptText, PromptsDoNotShareTheirBeginning) {
  const Config config{.prompt_words = 8, .seed = 5};
  Config other = config;
  other.seed = 6;
  std::set<std::string> beginnings;
  for (uint64_t number = 0; number < 500; ++number) {
    for (const Config& each : {config, other}) {
      auto words = words_of(prompt_text(each, number));
      beginnings.insert(words[0] + words[1] + words[2] + words[3]);
    }
  }
  EXPECT_EQ(beginnings.size(), 1000U);
}

TEST(PromptText, ASharedPrefixAndNothingMore) {
  const Config config{.prompt_words = 40, .shared_prefix = 25, .seed = 5};
  const auto first = words_of(prompt_text(config, 1));
  const auto second = words_of(prompt_text(config, 2));
  const auto mismatch = std::mismatch(first.begin(), first.end(), second.begin());
  const auto shared = mismatch.first - first.begin();
  EXPECT_GE(shared, 25);
  EXPECT_LE(shared, 27);
  EXPECT_EQ(words_of(prompt_text({.prompt_words = 10, .shared_prefix = 25}, 1)).size(), 10U);
}

TEST(Body, Chat) {
  Config config{.model = "a \"b\"\n\xFF", .seed = 5, .generate = 17, .temperature = 0.5};
  const Body body = make_body(config, "the words", "");
  const Json json = parsed(body);
  EXPECT_EQ(body.size(), body.head.size() + body.tail.size());
  EXPECT_THAT(json["model"].get<std::string>(), HasSubstr("a \"b\"\n"));
  EXPECT_EQ(json["messages"], Json::parse(R"([{"role": "user", "content": "the words"}])"));
  EXPECT_EQ(json["max_tokens"], 17);
  EXPECT_EQ(json["temperature"], 0.5);
  EXPECT_EQ(json["stream"], true);
  EXPECT_EQ(json["stream_options"]["include_usage"], true);
  EXPECT_FALSE(json.contains("ignore_eos"));
  EXPECT_FALSE(json.contains("prompt"));
}

TEST(Body, Picture) {
  const std::string uri = "data:image/png;base64,AAAA";
  const Body body = make_body({}, "the words", uri);
  const Json json = parsed(body);
  EXPECT_EQ(body.size(), body.head.size() + uri.size() + body.tail.size());
  EXPECT_FALSE(json.contains("model"));
  EXPECT_EQ(json["messages"][0]["content"], Json::parse(R"([{"type": "text", "text": "the words"},
      {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])"));
}

TEST(Body, Completions) {
  const Json json = parsed(make_body({.endpoint = Endpoint::completions, .ignore_eos = true}, "the words", ""));
  EXPECT_EQ(json["prompt"], "the words");
  EXPECT_EQ(json["ignore_eos"], true);
  EXPECT_FALSE(json.contains("messages"));
}

TEST(HttpHead, PostAndGet) {
  Config config{.api_key = "secret"};
  const Url url = *parse_url("http://127.0.0.1:30000");
  const std::string post = http_head(config, url, "/chat/completions", 12);
  EXPECT_TRUE(post.starts_with("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:30000\r\n"));
  EXPECT_THAT(post, HasSubstr("\r\nContent-Length: 12\r\n"));
  EXPECT_THAT(post, HasSubstr("\r\nAuthorization: Bearer secret\r\n"));
  EXPECT_TRUE(post.ends_with("\r\n\r\n"));
  config.api_key.clear();
  const std::string get = http_head(config, url, "/models", 0);
  EXPECT_TRUE(get.starts_with("GET /v1/models HTTP/1.1\r\n"));
  EXPECT_THAT(get, Not(HasSubstr("Authorization")));
  EXPECT_THAT(get, Not(HasSubstr("Content-Length")));
}

TEST(Base64, OfRfc4648) {
  const std::pair<const char*, const char*> cases[] = {{"", ""},
                                                       {"f", "Zg=="},
                                                       {"fo", "Zm8="},
                                                       {"foo", "Zm9v"},
                                                       {"foob", "Zm9vYg=="},
                                                       {"fooba", "Zm9vYmE="},
                                                       {"foobar", "Zm9vYmFy"},
                                                       {"\xFB\xFF\xFE", "+//+"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(encode_base64(bytes), text);
}

TEST(PictureUri, TypeFromTheFirstBytes) {
  const Path path = std::filesystem::temp_directory_path() /
                    fmt::format("keye-picture-{}", testing::UnitTest::GetInstance()->random_seed());
  const std::pair<std::string, const char*> cases[] = {{"\x89PNG\r\n\x1A\n", "image/png"},
                                                       {"\xFF\xD8\xFF\xE0", "image/jpeg"},
                                                       {"RIFF....WEBP", "image/webp"},
                                                       {"GIF89a", "image/gif"},
                                                       {"BM....", "image/bmp"},
                                                       {"II*.", "image/tiff"}};
  for (const auto& [bytes, type] : cases) {
    ASSERT_TRUE(write_file(path, bytes));
    const auto uri = picture_uri(path);
    ASSERT_TRUE(uri) << type;
    EXPECT_EQ(*uri, fmt::format("data:{};base64,{}", type, encode_base64(bytes)));
  }
  ASSERT_TRUE(write_file(path, "words"));
  EXPECT_EQ(picture_uri(path).error().code, ErrorCode::unsupported);
  std::filesystem::remove(path);
  EXPECT_EQ(picture_uri(path).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace keye::loadtest
