#include "server/reply_json.h"

#include <gtest/gtest.h>

#include "text/small_tokenizer.h"

namespace keye::server {
namespace {

using engine::ChatEvent;
using engine::FinishReason;
using engine::Sampled;

/// Token ids are bytes.
const text::Tokenizer& tokenizer() {
  static const text::Tokenizer bytes = text::read(text::small_tokenizer()).value();
  return bytes;
}

ReplyWriter writer(ReplyShape shape) {
  return {{.id = "id", .created = 7, .model = "m"}, std::move(shape), tokenizer()};
}

Sampled sampled(char byte, float logprob = -0.5F, std::vector<engine::TokenLogprob> top = {}) {
  return {.token = static_cast<unsigned char>(byte), .logprob = logprob, .top = std::move(top)};
}

/// One token of a reply, with its text.
ChatEvent token(char byte) { return {.content = std::string(1, byte), .token = sampled(byte)}; }
ChatEvent last(ChatEvent event, FinishReason reason) {
  event.finish = reason;
  return event;
}

Choice choice_of(const ReplyWriter& writer, const std::vector<ChatEvent>& events) {
  Choice choice;
  for (const ChatEvent& event : events) writer.add(choice, event);
  return choice;
}
Json whole(const ReplyWriter& writer, const std::vector<Choice>& choices, const Usage& usage = {}) {
  return Json::parse(writer.whole(choices, usage, {{1, 2}}));
}

TEST(ReplyWriter, AWholeChatReply) {
  const ReplyWriter chat = writer({});
  ChatEvent thought{.reasoning = "hm", .token = sampled('h')};
  const Choice choice = choice_of(chat, {thought, token('a'), last(token('b'), FinishReason::length)});
  const Usage usage{.prompt_tokens = 10, .completion_tokens = 3, .cached_tokens = 4, .reasoning_tokens = 1};
  EXPECT_EQ(whole(chat, {choice}, usage), Json::parse(R"({
      "id": "id", "object": "chat.completion", "created": 7, "model": "m",
      "choices": [{"index": 0, "message": {"role": "assistant", "content": "ab", "reasoning_content": "hm"},
                   "logprobs": null, "finish_reason": "length", "matched_stop": null}],
      "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}})"));
  EXPECT_EQ(choice.reasoning_tokens, 1);
}

TEST(ReplyWriter, WithoutThoughtsThereIsNoReasoning) {
  const ReplyWriter chat = writer({});
  EXPECT_FALSE(whole(chat, {choice_of(chat, {token('a')})})["choices"][0]["message"].contains("reasoning_content"));
}

TEST(ReplyWriter, WhatEndedAReply) {
  const ReplyWriter chat = writer({.return_token_ids = true});
  ChatEvent by_token{.token = sampled('$'), .finish = FinishReason::stop, .stop_token = '$'};
  const Json token_end = whole(chat, {choice_of(chat, {token('a'), by_token})});
  EXPECT_EQ(token_end["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(token_end["choices"][0]["matched_stop"], '$');
  EXPECT_EQ(token_end["choices"][0]["token_ids"], Json({'a', '$'}));
  EXPECT_EQ(token_end["prompt_token_ids"], Json({1, 2}));
  ChatEvent by_string{.token = sampled('b'), .finish = FinishReason::stop, .stop_string = "b"};
  EXPECT_EQ(whole(chat, {choice_of(chat, {token('a'), by_string})})["choices"][0]["matched_stop"], "b");
  for (const auto reason : {FinishReason::cancelled, FinishReason::shutdown}) {
    EXPECT_EQ(api_finish_reason(reason), "abort");
  }
}

TEST(ReplyWriter, LogprobsOfAChat) {
  const ReplyWriter chat = writer({.logprobs = 1});
  ChatEvent first{.content = "\xc3", .token = sampled('\xc3', -0.25F, {{'x', -0.125F}})};
  ChatEvent end{.token = sampled('$'), .finish = FinishReason::stop, .stop_token = '$'};
  const Json logprobs = whole(chat, {choice_of(chat, {first, end})})["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["refusal"], nullptr);
  ASSERT_EQ(logprobs["content"].size(), 1U);  // the token that ended the reply is no part of it
  EXPECT_EQ(logprobs["content"][0]["logprob"], -0.25);
  EXPECT_EQ(logprobs["content"][0]["bytes"], Json({0xc3}));  // half a character
  EXPECT_EQ(logprobs["content"][0]["token"], "\xef\xbf\xbd");
  EXPECT_EQ(logprobs["content"][0]["top_logprobs"],
            Json::parse(R"([{"token": "x", "logprob": -0.125, "bytes": [120]}])"));
}

TEST(ReplyWriter, LogprobsOfACompletion) {
  const ReplyWriter completion = writer({.api = ReplyApi::completion, .logprobs = 1});
  ChatEvent first = token('a');
  first.token->top = {{'x', -0.125F}};
  const Json reply =
      whole(completion, {choice_of(completion, {first, token('b'), last(token('c'), FinishReason::length)})});
  EXPECT_EQ(reply["object"], "text_completion");
  EXPECT_EQ(reply["choices"][0]["text"], "abc");
  const Json& logprobs = reply["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json({"a", "b", "c"}));
  EXPECT_EQ(logprobs["token_logprobs"], Json({-0.5, -0.5, -0.5}));
  EXPECT_EQ(logprobs["top_logprobs"][0], Json::parse(R"({"x": -0.125})"));
  EXPECT_EQ(logprobs["text_offset"], Json({0, 1, 2}));
}

TEST(ReplyWriter, SeveralPromptsEachHaveTheirIds) {
  const ReplyWriter completion = writer({.api = ReplyApi::completion, .return_token_ids = true});
  std::vector<Choice> choices(4);
  const Json reply = Json::parse(completion.whole(choices, {}, {{1}, {2, 3}}));
  EXPECT_EQ(reply["choices"][1]["prompt_token_ids"], Json({1}));
  EXPECT_EQ(reply["choices"][2]["prompt_token_ids"], Json({2, 3}));
}

TEST(ReplyWriter, AChatStreamOpensAndAddsAndEnds) {
  const ReplyWriter chat = writer({.stream = true, .include_usage = true});
  Choice choice;
  choice.index = 2;
  const Json opening = Json::parse(chat.opening(choice, {1, 2}));
  EXPECT_EQ(opening, Json::parse(R"({"id": "id", "object": "chat.completion.chunk", "created": 7, "model": "m",
      "choices": [{"index": 2, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}],
      "usage": null})"));
  ChatEvent event = token('a');
  event.reasoning = "hm";
  chat.add(choice, event);
  EXPECT_EQ(Json::parse(chat.chunk(choice, event, {}))["choices"][0]["delta"],
            Json::parse(R"({"reasoning_content": "hm", "content": "a"})"));
  EXPECT_EQ(chat.chunk(choice, {.token = sampled('x')}, {}), "");  // nothing to show yet
  const ChatEvent end{.token = sampled('$'), .finish = FinishReason::stop, .stop_token = '$'};
  chat.add(choice, end);
  const Json finish = Json::parse(chat.chunk(choice, end, {}));
  EXPECT_EQ(finish["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(finish["choices"][0]["delta"], Json::object());
  EXPECT_EQ(finish["choices"][0]["matched_stop"], '$');
  EXPECT_EQ(finish["usage"], nullptr);
  const Json usage = Json::parse(chat.usage_chunk({.prompt_tokens = 1, .completion_tokens = 2}));
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["total_tokens"], 3);
  EXPECT_EQ(choice.content, "");  // a stream keeps no second copy
}

TEST(ReplyWriter, TokensOfAStreamComeEvenWithoutText) {
  const ReplyWriter completion =
      writer({.api = ReplyApi::completion, .stream = true, .logprobs = 0, .return_token_ids = true});
  Choice choice;
  EXPECT_EQ(Json::parse(completion.opening(choice, {1, 2}))["choices"][0]["prompt_token_ids"], Json({1, 2}));
  completion.add(choice, token('a'));
  const ChatEvent silent{.token = sampled('b')};
  completion.add(choice, silent);
  const Json part = Json::parse(completion.chunk(choice, silent, {}))["choices"][0];
  EXPECT_EQ(part["text"], "");
  EXPECT_EQ(part["token_ids"], Json({'b'}));
  EXPECT_EQ(part["logprobs"]["tokens"], Json({"b"}));
  EXPECT_EQ(part["logprobs"]["text_offset"], Json({1}));
  EXPECT_EQ(writer({.api = ReplyApi::completion, .stream = true}).opening(choice, {1}), "");
}

TEST(ReplyWriter, ContinuousUsage) {
  const ReplyWriter chat = writer({.stream = true, .continuous_usage = true});
  Choice choice;
  chat.add(choice, token('a'));
  EXPECT_EQ(Json::parse(
                chat.chunk(choice, token('a'), {.prompt_tokens = 5, .completion_tokens = 1}))["usage"]["total_tokens"],
            6);
}

TEST(ReplyWriter, SglangsReply) {
  const ReplyWriter generate = writer({.api = ReplyApi::generate, .logprobs = 1, .logprob_texts = true});
  ChatEvent first = token('a');
  first.token->top = {{'x', -0.125F}};
  Choice choice = choice_of(generate, {first, last(token('b'), FinishReason::length)});
  choice.prompt_tokens = 9;
  choice.cached_tokens = 3;
  choice.seconds = 0.5;
  EXPECT_EQ(whole(generate, {choice}), Json::parse(R"({"text": "ab", "output_ids": [97, 98], "meta_info": {
      "id": "id", "finish_reason": {"type": "length", "length": 2}, "prompt_tokens": 9, "completion_tokens": 2,
      "cached_tokens": 3, "e2e_latency": 0.5, "output_token_logprobs": [[-0.5, 97, "a"], [-0.5, 98, "b"]],
      "output_top_logprobs": [[[-0.125, 120, "x"]], []]}})"));
  const ReplyWriter plain = writer({.api = ReplyApi::generate, .logprobs = 0});
  const Json meta = whole(plain, {choice_of(plain, {token('a')})})["meta_info"];
  EXPECT_EQ(meta["output_token_logprobs"], Json::parse("[[-0.5, 97, null]]"));
  EXPECT_EQ(meta["finish_reason"], nullptr);
  EXPECT_EQ(whole(plain, {choice, choice}).size(), 2U);  // n replies are a list
  const ReplyWriter batch = writer({.api = ReplyApi::generate, .is_batch = true});
  EXPECT_TRUE(whole(batch, {choice}).is_array());
}

TEST(ReplyWriter, SglangsStreamHoldsAllSoFar) {
  const ReplyWriter generate = writer({.api = ReplyApi::generate, .stream = true});
  Choice choice;
  choice.index = 1;
  EXPECT_EQ(generate.opening(choice, {1}), "");
  generate.add(choice, token('a'));
  generate.add(choice, token('b'));
  const Json chunk = Json::parse(generate.chunk(choice, token('b'), {}));
  EXPECT_EQ(chunk["text"], "ab");
  EXPECT_EQ(chunk["index"], 1);
}

TEST(Dump, GivesUtf8Whatever) {
  EXPECT_EQ(dump("a\xff"), "\"a\xef\xbf\xbd\"");
  EXPECT_EQ(sse_data("{}"), "data: {}\n\n");
}

}  // namespace
}  // namespace keye::server
