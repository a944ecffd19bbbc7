#include "loadtest/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace keye::loadtest {
namespace {

using testing::HasSubstr;

Config good() {
  Config config;
  config.base_url = "http://127.0.0.1:30000";
  config.concurrency = 4;
  config.requests = 10;
  config.prompt_words = 20;
  return config;
}

TEST(Url, Parts) {
  const Url url = *parse_url("http://127.0.0.1:30000");
  EXPECT_FALSE(url.tls);
  EXPECT_EQ(url.host, "127.0.0.1");
  EXPECT_EQ(url.port, "30000");
  EXPECT_EQ(url.path, "");
  EXPECT_EQ(url.authority(), "127.0.0.1:30000");
  EXPECT_EQ(api_path(url, "/models"), "/v1/models");
}

TEST(Url, DefaultPortsAndPaths) {
  EXPECT_EQ(parse_url("http://example.org")->port, "80");
  const Url url = *parse_url("https://example.org/api/v3/");
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.port, "443");
  EXPECT_EQ(url.path, "/api/v3");
  EXPECT_EQ(api_path(url, endpoint_path(Endpoint::chat)), "/api/v3/chat/completions");
  EXPECT_EQ(api_path(*parse_url("http://h/"), endpoint_path(Endpoint::completions)), "/v1/completions");
}

TEST(Url, AddressesOfVersionSix) {
  const Url url = *parse_url("http://[::1]:8080/v1");
  EXPECT_EQ(url.host, "::1");
  EXPECT_EQ(url.port, "8080");
  EXPECT_EQ(url.authority(), "[::1]:8080");
  EXPECT_EQ(parse_url("http://[::1]")->port, "80");
}

TEST(Url, Refused) {
  for (const char* const text :
       {"", "127.0.0.1:80", "ftp://host", "http://", "http:///v1", "http://:80", "http://host:0", "http://host:65536",
        "http://host:8o", "http://host:", "http://user@host", "http://host/a?b", "http://host/#a", "http://ho st",
        "http://host/a\r\nX: y", "http://[::1", "http://[::1]x:80", "http://[]"}) {
    const auto url = parse_url(text);
    ASSERT_FALSE(url) << text;
    EXPECT_EQ(url.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(url.error().to_string(), HasSubstr("--base-url"));
  }
}

TEST(Validate, WhatFitsTogether) {
  EXPECT_TRUE(validate(good()));
  Config config = good();
  config.concurrency = 0;
  config.rate = 2.5;
  config.poisson = true;
  config.requests = 0;
  config.duration_s = 3;
  config.images = {"a.png"};
  config.image_share = 0.5;
  config.shared_prefix = 20;
  EXPECT_TRUE(validate(config));
}

TEST(Validate, EveryRefusalNamesItsFlag) {
  const std::pair<const char*, std::function<void(Config&)>> cases[] = {
      {"--base-url", [](Config& c) { c.base_url = "host"; }},
      {"--api-key", [](Config& c) { c.api_key = "a\r\nb"; }},
      {"--concurrency", [](Config& c) { c.concurrency = 0; }},
      {"--concurrency", [](Config& c) { c.rate = 1; }},
      {"--concurrency", [](Config& c) { c.concurrency = 100'001; }},
      {"--concurrency", [](Config& c) { c.concurrency = -1; }},
      {"--rate", [](Config& c) { c.concurrency = 0, c.rate = 1e7; }},
      {"--rate", [](Config& c) { c.concurrency = 0, c.rate = -1; }},
      {"--poisson", [](Config& c) { c.poisson = true; }},
      {"--requests", [](Config& c) { c.requests = 0; }},
      {"--requests", [](Config& c) { c.requests = -1; }},
      {"--duration", [](Config& c) { c.duration_s = -1; }},
      {"--warmup", [](Config& c) { c.warmup = -1; }},
      {"--prompt-tokens", [](Config& c) { c.prompt_words = 0; }},
      {"--prompt-tokens", [](Config& c) { c.prompt_tokens = 5; }},
      {"--prompt-words", [](Config& c) { c.prompt_words = -1; }},
      {"--shared-prefix", [](Config& c) { c.shared_prefix = 21; }},
      {"--image-share", [](Config& c) { c.image_share = 1.1; }},
      {"--image", [](Config& c) { c.images = {"a.png"}, c.endpoint = Endpoint::completions; }},
      {"--generate", [](Config& c) { c.generate = 0; }},
      {"--temperature", [](Config& c) { c.temperature = -0.1; }},
      {"--timeout", [](Config& c) { c.timeout_s = 0; }},
  };
  for (const auto& [flag, spoil] : cases) {
    Config config = good();
    spoil(config);
    const auto valid = validate(config);
    ASSERT_FALSE(valid) << flag;
    EXPECT_EQ(valid.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(valid.error().where, flag) << valid.error().message;
  }
}

}  // namespace
}  // namespace keye::loadtest
