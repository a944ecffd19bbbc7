// Requests through the model that comes with the project, to the bytes of their responses; no connection.
#include "server/api_reply.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/json.h"
#include "engine/load.h"
#include "server/testing.h"

namespace keye::server {
namespace {

Json body_of(const HttpResponse& response) { return Json::parse(response.body); }

class ApiReplyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded =
        engine::load("models/keye-nano", {.device = {.threads = 2}, .step_tokens_max = 64, .step_logits_max = 8});
    ASSERT_TRUE(loaded) << loaded.error().to_string();
    engine_ = new engine::Engine(std::move(loaded).value(), {.kv_tokens = 4096, .running_max = 8, .queued_max = 8});
  }
  static void TearDownTestSuite() {
    delete engine_;
    engine_ = nullptr;
  }

  std::shared_ptr<FakeExchange> ask(std::string_view body, bool completion = false) {
    const RequestRules rules{.served_names = {"nano"},
                             .generation = engine_->generation(),
                             .context_max = engine_->context_max(),
                             .tenant = "tenant"};
    auto request = completion ? read_completion_request(body, rules) : read_chat_request(body, rules);
    EXPECT_TRUE(request) << request.error().to_string();
    auto exchange = std::make_shared<FakeExchange>();
    std::make_shared<ApiReply>(ReplyContext{chats_, metrics_, open_}, exchange, std::move(request).value())->start();
    return exchange;
  }
  /// The one response.
  static HttpResponse response(const std::shared_ptr<FakeExchange>& exchange) {
    EXPECT_TRUE(exchange->run_until([&] { return !exchange->responses.empty(); }));
    return exchange->responses.at(0);
  }
  static std::vector<std::string> events(const std::shared_ptr<FakeExchange>& exchange) {
    EXPECT_TRUE(exchange->run_until([&] { return exchange->stream_ended; }));
    std::vector<std::string> events;
    std::string_view rest = exchange->stream;
    while (!rest.empty()) {
      const size_t end = rest.find("\n\n");
      EXPECT_TRUE(rest.starts_with("data: ") && end != std::string_view::npos) << rest;
      events.emplace_back(rest.substr(6, end - 6));
      rest.remove_prefix(end + 2);
    }
    return events;
  }
  void wait_until_idle() {
    const auto deadline = engine::Clock::now() + std::chrono::seconds(60);
    const auto busy = [](const engine::EngineStats& stats) {
      return stats.running + stats.waiting + stats.pages_used > 0;
    };
    while (busy(engine_->stats())) ASSERT_LT(engine::Clock::now(), deadline);
  }

  static engine::Engine* engine_;
  engine::ChatClient chats_{*engine_, {}};
  Metrics metrics_{"nano"};
  OpenReplies open_;
};
engine::Engine* ApiReplyTest::engine_ = nullptr;

constexpr const char* kLong =
    R"({"messages": [{"role": "user", "content": "Hello"}], "ignore_eos": true, "rid": "long")";

std::string long_chat(const std::string& more = {}) { return std::string(kLong) + more + "}"; }

TEST_F(ApiReplyTest, AStreamSaysWhatTheWholeReplySays) {
  const std::string body = long_chat(R"(, "max_tokens": 12, "n": 2, "temperature": 3, "seed": 1)");
  const Json whole = body_of(response(ask(body)));
  const auto parts =
      events(ask(body.substr(0, body.size() - 1) + R"(, "stream": true, "stream_options": {"include_usage": true}})"));
  ASSERT_EQ(parts.back(), "[DONE]");
  std::vector<std::string> texts(2), ends(2);
  for (size_t i = 0; i + 2 < parts.size(); ++i) {
    const Json chunk = Json::parse(parts[i]);
    EXPECT_EQ(chunk["id"], "long");
    const Json& choice = chunk["choices"].at(0);
    const auto index = choice["index"].get<size_t>();
    EXPECT_EQ(ends[index], "");  // nothing comes after the finish
    texts[index] += choice["delta"].value("content", "");
    if (!choice["finish_reason"].is_null()) ends[index] = choice["finish_reason"];
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(whole["choices"][i]["message"]["content"], texts[i]);
    EXPECT_EQ(whole["choices"][i]["finish_reason"], ends[i]);
  }
  EXPECT_NE(texts[0], texts[1]);
  const Json usage = Json::parse(parts[parts.size() - 2]);
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 24);
  EXPECT_EQ(usage["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
}

TEST_F(ApiReplyTest, SeveralPromptsAreAnsweredInTheirOrder) {
  const Json reply =
      body_of(response(ask(R"({"prompt": ["a", "b", "a"], "max_tokens": 4, "ignore_eos": true})", true)));
  ASSERT_EQ(reply["choices"].size(), 3U);
  EXPECT_EQ(reply["choices"][0]["text"], reply["choices"][2]["text"]);
  EXPECT_EQ(reply["choices"][1]["index"], 1);
  EXPECT_EQ(reply["usage"]["completion_tokens"], 12);
}

TEST_F(ApiReplyTest, WhatTheEngineRefusesIsNamed) {
  const Json unknown_token = body_of(response(ask(long_chat(R"(, "logit_bias": {"99999": 1})"))));
  EXPECT_EQ(unknown_token["error"]["param"], "logit_bias");
  const HttpResponse long_prompt =
      response(ask(R"({"prompt": ")" + std::string(9000, 'x') + R"(", "max_tokens": 1})", true));
  EXPECT_EQ(long_prompt.status, 400);
  EXPECT_EQ(body_of(long_prompt)["error"]["code"], "context_length_exceeded");
  const HttpResponse many = response(ask(long_chat(R"(, "n": 100)")));
  EXPECT_EQ(many.status, 429);
  EXPECT_EQ(header_of(many.headers, "Retry-After"), "1");
  const HttpResponse late = response(ask(long_chat(R"(, "timeout": 0.001)")));
  EXPECT_EQ(late.status, 504);
  wait_until_idle();
}

TEST_F(ApiReplyTest, AnErrorInAStreamComesBeforeItsEnd) {
  const auto exchange = ask(long_chat(R"(, "stream": true, "timeout": 0.05)"));
  const auto parts = events(exchange);
  ASSERT_GE(parts.size(), 2U);
  EXPECT_EQ(parts.back(), "[DONE]");
  EXPECT_EQ(Json::parse(parts[parts.size() - 2])["error"]["code"], "deadline");
  EXPECT_EQ(exchange->responses.size(), 1U);
  EXPECT_EQ(exchange->responses[0].status, 200);
}

TEST_F(ApiReplyTest, AnIdIsInUseUntilItsReplyIsOver) {
  const auto first = ask(long_chat(R"(, "stream": true)"));
  ASSERT_TRUE(first->run_until([&] { return !first->stream.empty(); }));
  const HttpResponse second = response(ask(long_chat()));
  EXPECT_EQ(second.status, 400);
  EXPECT_EQ(body_of(second)["error"]["param"], "rid");
  EXPECT_FALSE(open_.abort("somebody else", "long"));
  EXPECT_FALSE(open_.abort("tenant", "another"));
  EXPECT_TRUE(open_.abort("tenant", "long"));
  const auto parts = events(first);
  EXPECT_EQ(Json::parse(parts[parts.size() - 2])["choices"][0]["finish_reason"], "abort");
  EXPECT_FALSE(open_.abort("tenant", "long"));
  EXPECT_EQ(response(ask(long_chat(R"(, "max_tokens": 1)"))).status, 200);
}

TEST_F(ApiReplyTest, AClientThatLeavesFreesTheEngine) {
  const auto exchange = ask(long_chat(R"(, "stream": true)"));
  ASSERT_TRUE(exchange->run_until([&] { return !exchange->stream.empty(); }));
  exchange->close();
  EXPECT_EQ(open_.abort_all(), 0);
  wait_until_idle();
  EXPECT_NE(metrics_.text({}, {}, {}).find(R"(keye_request_errors_total{model_name="nano",kind="disconnected"} 1)"),
            std::string::npos);
  exchange->drop_posted();
}

TEST_F(ApiReplyTest, ASlowReaderHoldsItsRepliesBack) {
  const auto exchange = ask(long_chat(R"(, "stream": true, "max_tokens": 200)"));
  ASSERT_TRUE(exchange->run_until([&] { return !exchange->stream.empty(); }));
  exchange->backlog_bytes = 1 << 20;
  const size_t before_hold = exchange->stream.size();
  ASSERT_TRUE(exchange->run_until([&] { return exchange->stream.size() > before_hold; }));
  // Only what was on its way when the reply was held still comes: then the engine has nothing to do.
  const auto steps = [] { return engine_->stats().steps; };
  uint64_t before = 0;
  do {
    before = steps();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  } while (steps() != before);
  EXPECT_FALSE(exchange->stream_ended);
  exchange->backlog_bytes = 0;
  exchange->drain();
  EXPECT_EQ(events(exchange).back(), "[DONE]");
}

TEST(ErrorOfARequest, HasItsStatus) {
  const auto status = [](ErrorCode code, const std::string& where) {
    return error_response(Error{code, "m", where}).status;
  };
  EXPECT_EQ(status(ErrorCode::invalid_argument, "top_p"), 400);
  EXPECT_EQ(status(ErrorCode::unsupported, "tools"), 400);
  EXPECT_EQ(status(ErrorCode::too_large, "prompt"), 400);
  EXPECT_EQ(status(ErrorCode::not_found, "model"), 404);
  EXPECT_EQ(status(ErrorCode::not_found, "messages[0].content[0]"), 400);  // a picture's file
  EXPECT_EQ(status(ErrorCode::overloaded, ""), 429);
  EXPECT_EQ(status(ErrorCode::cancelled, ""), 499);
  EXPECT_EQ(status(ErrorCode::unavailable, ""), 503);
  EXPECT_EQ(status(ErrorCode::unavailable, "messages[0].content[0]"), 400);  // a picture's server
  EXPECT_EQ(status(ErrorCode::deadline, ""), 504);
  EXPECT_EQ(status(ErrorCode::deadline, "messages[0].content[0]"), 400);
  EXPECT_EQ(status(ErrorCode::internal, ""), 500);
  const HttpResponse response = error_response(Error{ErrorCode::not_found, "there is no model \"x\"", "model"});
  EXPECT_EQ(body_of(response),
            Json::parse(R"({"error": {"message": "model: there is no model \"x\"", "type": "not_found_error",
                                                         "param": "model", "code": "model_not_found"}})"));
}

}  // namespace
}  // namespace keye::server
