#include "loadtest/reply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace keye::loadtest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string content(std::string_view text) {
  return fmt::format("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", text);
}

constexpr const char* kRole = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
constexpr const char* kFinish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
constexpr const char* kUsage =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,"
    "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";
constexpr const char* kDone = "data: [DONE]\n\n";

TEST(Chunk, WhatCountsAsText) {
  for (const char* const json :
       {R"({"choices": [{"text": "a"}]})", R"({"choices": [{"delta": {"content": "a"}}]})",
        R"({"choices": [{"delta": {"reasoning_content": "a"}}]})", R"({"choices": [{"delta": {"reasoning": "a"}}]})",
        R"({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})", R"({"choices": [{}, {"text": "a"}]})"}) {
    EXPECT_TRUE(read_chunk(json)->has_text) << json;
  }
  for (const char* const json :
       {R"({})", R"({"choices": []})", R"({"choices": null})", R"({"choices": [{"text": ""}]})",
        R"({"choices": [{"text": null}]})", R"({"choices": [{"delta": {"role": "assistant", "content": ""}}]})",
        R"({"choices": [{"delta": {"content": null, "tool_calls": []}}]})", R"({"choices": [{"delta": 3}]})",
        R"({"choices": {"text": "a"}})", R"({"choices": ["a"]})"}) {
    const auto chunk = read_chunk(json);
    ASSERT_TRUE(chunk) << json;
    EXPECT_FALSE(chunk->has_text) << json;
    EXPECT_FALSE(chunk->finished) << json;
    EXPECT_FALSE(chunk->usage) << json;
    EXPECT_EQ(chunk->error, "") << json;
  }
}

TEST(Chunk, Usage) {
  const auto chunk = read_chunk(
      R"({"choices": [{"text": "a", "finish_reason": "length"}],
          "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}})");
  EXPECT_TRUE(chunk->finished);
  EXPECT_EQ(chunk->usage->prompt_tokens, 3);
  EXPECT_EQ(chunk->usage->completion_tokens, 4);
  EXPECT_EQ(chunk->usage->cached_tokens, 2);
  const auto odd = read_chunk(
      R"({"usage": {"prompt_tokens": -3, "completion_tokens": 18446744073709551615, "prompt_tokens_details": null}})");
  EXPECT_EQ(odd->usage->prompt_tokens, -1);
  EXPECT_EQ(odd->usage->completion_tokens, -1);
  EXPECT_EQ(odd->usage->cached_tokens, -1);
  EXPECT_FALSE(read_chunk(R"({"usage": null})")->usage);
}

TEST(Chunk, ErrorsOfTheServer) {
  EXPECT_EQ(read_chunk(R"({"error": {"message": "out of memory", "code": 500}})")->error, "out of memory");
  EXPECT_EQ(read_chunk(R"({"error": "out of memory"})")->error, "out of memory");
  EXPECT_EQ(read_chunk(R"({"error": {"code": 500}})")->error, R"({"code":500})");
  EXPECT_NE(read_chunk(R"({"error": ""})")->error, "");
  EXPECT_EQ(read_chunk(R"({"error": null})")->error, "");
}

TEST(Chunk, Malformed) {
  for (const char* const json : {"", "{", "[1]", "3", "{} x", "{\"a\": \"\xFF\"}"}) {
    const auto chunk = read_chunk(json);
    ASSERT_FALSE(chunk) << json;
    EXPECT_EQ(chunk.error().code, ErrorCode::corrupt_data);
  }
}

TEST(FirstModel, OrNothing) {
  EXPECT_EQ(first_model(R"({"object": "list", "data": [{"id": "keye"}, {"id": "other"}]})"), "keye");
  for (const char* const json : {"", "[]", "{}", R"({"data": []})", R"({"data": [{}]})", R"({"data": [{"id": 3}]})"})
    EXPECT_EQ(first_model(json), "") << json;
}

TEST(Reply, TimesCountFromTheStart) {
  Reply reply(10);
  reply.push(kRole, 10.5);
  reply.push(content("a"), 11);
  reply.push(content("b") + content("c"), 11.25);
  reply.push(kFinish, 12);
  reply.push(kUsage, 12.5);
  EXPECT_FALSE(reply.is_over());
  reply.push(kDone, 13);
  EXPECT_TRUE(reply.is_over());
  EXPECT_FALSE(reply.has_failed());
  reply.end(20);
  const Outcome outcome = reply.take();
  EXPECT_FALSE(outcome.failure);
  EXPECT_EQ(outcome.first_s, 1);
  EXPECT_EQ(outcome.last_s, 1.25);
  EXPECT_EQ(outcome.end_s, 3);
  EXPECT_EQ(outcome.chunks, 3);
  EXPECT_THAT(outcome.gaps_ms, ElementsAre(250.0F, 0.0F));
  EXPECT_EQ(outcome.usage.prompt_tokens, 12);
  EXPECT_EQ(outcome.usage.cached_tokens, 4);
  EXPECT_EQ(outcome.output_tokens(), 5);
}

TEST(Reply, WithoutUsageChunksAreTokens) {
  Reply reply(0);
  reply.push(content("a") + content("b") + kFinish + kDone, 1);
  EXPECT_EQ(reply.take().output_tokens(), 2);
}

TEST(Reply, WithoutDoneAFinishReasonWillDo) {
  Reply reply(0);
  reply.push(content("a") + kFinish, 1);
  reply.end(2);
  const Outcome outcome = reply.take();
  EXPECT_FALSE(outcome.failure);
  EXPECT_EQ(outcome.end_s, 2);
}

TEST(Reply, CutStreams) {
  for (const std::string& bytes : {std::string(), content("a"), content("a") + "data: [DO"}) {
    Reply reply(0);
    reply.push(bytes, 1);
    reply.end(2);
    EXPECT_EQ(reply.take().failure->kind, "disconnected");
  }
}

TEST(Reply, BrokenStreams) {
  Reply broken(0);
  broken.push("data: {\"choices\"\n\n", 1);
  EXPECT_TRUE(broken.is_over());
  EXPECT_TRUE(broken.has_failed());
  broken.push(kDone, 2);
  broken.fail({"timeout", ""});
  EXPECT_EQ(broken.take().failure->kind, "malformed_stream");

  Reply refused(0);
  refused.push("data: {\"error\":{\"message\":\"out of memory\"}}\n\n", 1);
  const Outcome outcome = refused.take();
  EXPECT_EQ(outcome.failure->kind, "server_error");
  EXPECT_EQ(outcome.failure->message, "out of memory");

  Reply endless(0);
  endless.push("data: " + std::string(5 << 20, 'x'), 1);
  EXPECT_EQ(endless.take().failure->kind, "malformed_stream");
}

TEST(Reply, WhatFollowsTheEndDoesNotCount) {
  Reply reply(0);
  reply.push(content("a") + kDone + content("b") + "data: {\n\n", 1);
  const Outcome outcome = reply.take();
  EXPECT_FALSE(outcome.failure);
  EXPECT_EQ(outcome.chunks, 1);
}

}  // namespace
}  // namespace keye::loadtest
