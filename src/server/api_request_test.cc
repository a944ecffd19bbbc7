#include "server/api_request.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "base/json.h"
#include "server/request_fields.h"
#include "text/value_text.h"

namespace keye::server {
namespace {

using engine::ChatRequest;

RequestRules test_rules() {
  RequestRules rules;
  rules.served_names = {"keye", "alias"};
  rules.generation.eos_ids = {5, 6};
  rules.context_max = 1000;
  rules.tenant = "tenant";
  return rules;
}

constexpr const char* kMessages = R"("messages": [{"role": "user", "content": "Hello"}])";

/// A chat request with more fields, as JSON members.
std::string chat(const std::string& more = {}) {
  return std::string("{") + kMessages + (more.empty() ? "" : ", ") + more + "}";
}

ApiRequest must_read(Result<ApiRequest> request) {
  EXPECT_TRUE(request) << request.error().to_string();
  return std::move(request).value();
}
ApiRequest read_chat(const std::string& more = {}) { return must_read(read_chat_request(chat(more), test_rules())); }
engine::Request chat_fields_of(const std::string& more) { return read_chat(more).chats[0].request; }

/// The messages as JSON, as the prompt builder gets them.
Json messages_of(const ApiRequest& api) {
  const auto& conversation = std::get<prompt::Conversation>(api.chats[0].source);
  return Json::parse(text::to_json(conversation.messages, {}, 1 << 20)->text);
}
Json read_messages(const std::string& messages) {
  return messages_of(must_read(read_chat_request(R"({"messages": )" + messages + "}", test_rules())));
}

void expect_error(const Result<ApiRequest>& request, ErrorCode code, std::string_view where, const std::string& what) {
  ASSERT_FALSE(request) << what;
  EXPECT_EQ(request.error().code, code) << what << ": " << request.error().to_string();
  EXPECT_EQ(request.error().where, where) << what << ": " << request.error().to_string();
}

TEST(ChatRequest, DefaultsAreTheCheckpoints) {
  const ApiRequest api = read_chat();
  ASSERT_EQ(api.chats.size(), 1U);
  const ChatRequest& read = api.chats[0];
  EXPECT_EQ(read.request.sampling.temperature, 0);  // it does not sample unless told
  EXPECT_EQ(read.request.sampling.logprobs, -1);
  EXPECT_EQ(read.request.stop.token_ids, std::vector<int32_t>({5, 6}));
  EXPECT_EQ(read.request.stop.max_tokens, 1000);
  EXPECT_EQ(read.request.replies, 1);
  EXPECT_FALSE(read.request.deadline);
  EXPECT_TRUE(read.request.skip_special_tokens);
  EXPECT_TRUE(read.separate_reasoning);
  EXPECT_EQ(api.shape.model, "keye");
  EXPECT_EQ(api.shape.logprobs, -1);
  EXPECT_FALSE(api.shape.stream);

  RequestRules sampling = test_rules();
  sampling.generation = {
      .do_sample = true, .temperature = 0.6F, .top_k = 20, .top_p = 0.95F, .repetition_penalty = 1.05F};
  sampling.timeout = std::chrono::seconds(5);
  const engine::Request request = must_read(read_chat_request(chat(), sampling)).chats[0].request;
  EXPECT_EQ(request.sampling.temperature, 0.6F);
  EXPECT_EQ(request.sampling.top_k, 20);
  EXPECT_EQ(request.sampling.top_p, 0.95F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.05F);
  ASSERT_TRUE(request.deadline);
  EXPECT_NEAR(std::chrono::duration<double>(*request.deadline - engine::Clock::now()).count(), 5, 2);
}

TEST(ChatRequest, SeedsAreRandomUnlessGiven) {
  EXPECT_NE(chat_fields_of("").sampling.seed, chat_fields_of("").sampling.seed);
  EXPECT_EQ(chat_fields_of(R"("seed": 42)").sampling.seed, 42U);
  EXPECT_EQ(chat_fields_of(R"("seed": -1)").sampling.seed, ~uint64_t{0});
}

TEST(ChatRequest, ReadsSampling) {
  const engine::SamplingParams sampling =
      chat_fields_of(R"("temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "frequency_penalty": -1,
                        "presence_penalty": 2, "repetition_penalty": 1.5, "logit_bias": {"3": -100, "4": 1.5},
                        "logprobs": true, "top_logprobs": 4)")
          .sampling;
  EXPECT_EQ(sampling.temperature, 0.5F);
  EXPECT_EQ(sampling.top_p, 0.9F);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.min_p, 0.1F);
  EXPECT_EQ(sampling.frequency_penalty, -1.0F);
  EXPECT_EQ(sampling.presence_penalty, 2.0F);
  EXPECT_EQ(sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, -100.0F}, {4, 1.5F}}));
  EXPECT_EQ(sampling.logprobs, 4);
  EXPECT_EQ(chat_fields_of(R"("top_k": -1)").sampling.top_k, 0);
  EXPECT_EQ(chat_fields_of(R"("logprobs": true)").sampling.logprobs, 0);
}

TEST(ChatRequest, ReadsWhenAReplyEnds) {
  const engine::StopRules stop =
      chat_fields_of(R"("max_tokens": 3, "stop": "a", "stop_token_ids": [9], "ignore_eos": true)").stop;
  EXPECT_EQ(stop.max_tokens, 3);
  EXPECT_EQ(stop.strings, std::vector<std::string>({"a"}));
  EXPECT_EQ(stop.token_ids, std::vector<int32_t>({5, 6, 9}));
  EXPECT_TRUE(stop.ignore_eos);
  EXPECT_EQ(chat_fields_of(R"("stop": ["a", "b"])").stop.strings.size(), 2U);
  EXPECT_EQ(chat_fields_of(R"("max_tokens": 3, "max_completion_tokens": 4)").stop.max_tokens, 4);
  EXPECT_EQ(chat_fields_of(R"("max_completion_tokens": 4, "max_tokens": 3)").stop.max_tokens, 4);
}

TEST(ChatRequest, ReadsTheRest) {
  const ApiRequest api = read_chat(
      R"("model": "alias", "n": 3, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true,
         "include_obfuscation": false}, "rid": "mine", "priority": -2, "timeout": 0.5, "cache_salt": "salt",
         "skip_special_tokens": false, "separate_reasoning": false, "return_token_ids": true,
         "chat_template_kwargs": {"enable_thinking": false})");
  EXPECT_EQ(api.shape.model, "alias");
  EXPECT_TRUE(api.shape.stream);
  EXPECT_TRUE(api.shape.include_usage);
  EXPECT_TRUE(api.shape.continuous_usage);
  EXPECT_TRUE(api.shape.return_token_ids);
  EXPECT_EQ(api.shape.rid, "mine");
  EXPECT_EQ(api.shape.tenant, "tenant");
  const ChatRequest& chat = api.chats[0];
  EXPECT_EQ(chat.request.replies, 3);
  EXPECT_EQ(chat.request.priority, -2);
  EXPECT_TRUE(chat.request.deadline);
  EXPECT_EQ(chat.request.cache_salt, "tenant/salt");
  EXPECT_FALSE(chat.request.skip_special_tokens);
  EXPECT_FALSE(chat.separate_reasoning);
  EXPECT_FALSE(std::get<prompt::Conversation>(chat.source).render.variables.find("enable_thinking")->boolean());
  EXPECT_EQ(read_chat(R"("model": "")").shape.model, "keye");
}

TEST(ChatRequest, APromptOpensOrContinuesAReply) {
  const auto render = [](const std::string& more) {
    return std::get<prompt::Conversation>(read_chat(more).chats[0].source).render;
  };
  EXPECT_TRUE(render("").add_generation_prompt);
  EXPECT_FALSE(render("").continue_final_message);
  EXPECT_FALSE(render(R"("continue_final_message": true)").add_generation_prompt);
  EXPECT_TRUE(render(R"("continue_final_message": true)").continue_final_message);
  EXPECT_FALSE(render(R"("add_generation_prompt": false)").add_generation_prompt);
  EXPECT_TRUE(render(R"("continue_final_message": true, "add_generation_prompt": true)").add_generation_prompt);
}

TEST(ChatRequest, NamesWhatIsWrong) {
  for (const auto& [fields, where] : std::vector<std::pair<std::string, std::string>>{
           {R"("temperature": -0.1)", "temperature"},
           {R"("temperature": "hot")", "temperature"},
           {R"("top_p": 0)", "top_p"},
           {R"("top_p": 1.1)", "top_p"},
           {R"("top_k": -2)", "top_k"},
           {R"("top_k": 1.5)", "top_k"},
           {R"("min_p": 2)", "min_p"},
           {R"("frequency_penalty": 3)", "frequency_penalty"},
           {R"("presence_penalty": -3)", "presence_penalty"},
           {R"("repetition_penalty": 0)", "repetition_penalty"},
           {R"("logit_bias": [1])", "logit_bias"},
           {R"("logit_bias": {"x": 1})", "logit_bias"},
           {R"("logit_bias": {"1x": 1})", "logit_bias"},
           {R"("logit_bias": {"1": "x"})", "logit_bias"},
           {R"("logit_bias": {"99999999999": 1})", "logit_bias"},
           {R"("seed": 1.5)", "seed"},
           {R"("max_tokens": 0)", "max_tokens"},
           {R"("max_completion_tokens": -1)", "max_completion_tokens"},
           {R"("stop": [""])", "stop"},
           {R"("stop": 1)", "stop"},
           {R"("stop": ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17"])",
            "stop"},
           {R"("stop_token_ids": [-1])", "stop_token_ids"},
           {R"("ignore_eos": 1)", "ignore_eos"},
           {R"("n": 0)", "n"},
           {R"("n": 129)", "n"},
           {R"("logprobs": 1)", "logprobs"},
           {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
           {R"("top_logprobs": 1)", "top_logprobs"},
           {R"("stream": "yes")", "stream"},
           {R"("stream_options": {})", "stream_options"},
           {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
           {R"("stream": true, "stream_options": {"x": 1})", "stream_options.x"},
           {R"("timeout": 0)", "timeout"},
           {R"("priority": 1001)", "priority"},
           {R"("cache_salt": 1)", "cache_salt"},
           {R"("model": 1)", "model"},
           {R"("chat_template_kwargs": 1)", "chat_template_kwargs"},
           {R"("nonsense": 1)", "nonsense"},
       }) {
    expect_error(read_chat_request(chat(fields), test_rules()), ErrorCode::invalid_argument, where, fields);
  }
  expect_error(read_chat_request(chat(R"("model": "other")"), test_rules()), ErrorCode::not_found, "model", "model");
  expect_error(read_chat_request(chat(R"("chat_template_kwargs": {"messages": 1})"), test_rules()),
               ErrorCode::unsupported, "chat_template_kwargs.messages", "a variable that is not a switch");
  expect_error(
      read_chat_request(chat(R"("stream": true, "stream_options": {"include_obfuscation": true})"), test_rules()),
      ErrorCode::unsupported, "stream_options.include_obfuscation", "obfuscation");
  const std::string many = [] {
    std::string biases;
    for (int i = 0; i < 1025; ++i) biases += fmt::format("{}\"{}\": 1", i == 0 ? "" : ", ", i);
    return R"("logit_bias": {)" + biases + "}";
  }();
  expect_error(read_chat_request(chat(many), test_rules()), ErrorCode::invalid_argument, "logit_bias", "too many");
}

TEST(ChatRequest, RefusesByNameWhatWouldChangeTheReply) {
  for (const auto& [name, asks, neutral] : std::vector<std::array<std::string, 3>>{
           {"tools", R"([{"type": "function"}])", "[]"},
           {"tool_choice", R"("auto")", R"("none")"},
           {"functions", "[{}]", "[]"},
           {"function_call", R"("auto")", "null"},
           {"response_format", R"({"type": "json_object"})", R"({"type": "text"})"},
           {"response_format", R"({"type": "text", "schema": {}})", R"({"type": "text"})"},
           {"modalities", R"(["text", "audio"])", R"(["text"])"},
           {"audio", R"({"voice": "a"})", "null"},
           {"store", "true", "false"},
           {"prediction", R"({"type": "content"})", "null"},
           {"reasoning_effort", R"("high")", "null"},
           {"verbosity", R"("low")", "null"},
           {"moderation", "{}", "null"},
           {"web_search_options", "{}", "null"},
       }) {
    const std::string field = "\"" + name + "\": ";
    expect_error(read_chat_request(chat(field + asks), test_rules()), ErrorCode::unsupported, name, asks);
    EXPECT_TRUE(read_chat_request(chat(field + neutral), test_rules())) << field << neutral;
  }
}

TEST(Messages, RolesAndContents) {
  EXPECT_EQ(read_messages(R"([{"role": "developer", "content": "d"}, {"role": "user", "content": "u", "name": "Ann"},
                              {"role": "assistant", "content": "a", "reasoning_content": "r", "refusal": null, "tool_calls": []},
                              {"role": "user", "content": [{"type": "text", "text": "t"}]}])"),
            Json::parse(R"([{"role": "system", "content": "d"}, {"role": "user", "content": "u", "name": "Ann"},
                            {"role": "assistant", "content": "a", "reasoning_content": "r"},
                            {"role": "user", "content": [{"type": "text", "text": "t"}]}])"));
}

TEST(Messages, PicturesInEveryForm) {
  const auto part = [](const std::string& given) {
    return read_messages(R"([{"role": "user", "content": [{"type": "image_url", )" + given + "}]}]")[0]["content"][0];
  };
  const auto picture = [](const std::string& kwargs) {
    return Json::parse(R"({"type": "image_url", "image_url": {"url": "u", "preprocess_kwargs": )" + kwargs + "}}");
  };
  EXPECT_EQ(part(R"("image_url": {"url": "u"})"), picture("{}"));
  EXPECT_EQ(part(R"("image_url": "u")"), picture("{}"));
  EXPECT_EQ(part(R"("image_url": {"url": "u", "detail": "high", "max_dynamic_patch": 1, "min_dynamic_patch": null})"),
            picture("{}"));
  EXPECT_EQ(part(R"("image_url": {"url": "u", "preprocess_kwargs": {"min_pixels": 1}})"),
            picture(R"({"min_pixels": 1})"));
  EXPECT_EQ(part(R"("image_url": {"url": "u"}, "preprocess_kwargs": {"min_pixels": 1})"),
            picture(R"({"min_pixels": 1})"));
  EXPECT_EQ(part(R"("image_url": {"url": "u"}, "min_pixels": 1, "max_pixels": 2, "factor": 3)"),
            picture(R"({"min_pixels": 1, "max_pixels": 2, "factor": 3})"));
  // The inner ones win.
  EXPECT_EQ(part(R"("image_url": {"url": "u", "preprocess_kwargs": {"min_pixels": 1}},
                    "preprocess_kwargs": {"min_pixels": 2, "max_pixels": 3}, "min_pixels": 4, "max_pixels": 5, "factor": 6)"),
            picture(R"({"min_pixels": 1, "max_pixels": 3, "factor": 6})"));
}

TEST(Messages, NamesWhatIsWrong) {
  const auto user = [](const std::string& content) { return R"([{"role": "user", "content": )" + content + "}]"; };
  for (const auto& [messages, where] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "messages"},
           {"{}", "messages"},
           {"[1]", "messages[0]"},
           {R"([{"content": "a"}])", "messages[0].role"},
           {R"([{"role": "wizard", "content": "a"}])", "messages[0].role"},
           {R"([{"role": "user"}])", "messages[0].content"},
           {R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": null}])", "messages[1].content"},
           {R"([{"role": "user", "content": "a", "mood": 1}])", "messages[0].mood"},
           {R"([{"role": "user", "content": "a", "reasoning_content": "r"}])", "messages[0].reasoning_content"},
           {R"([{"role": "assistant", "content": "a", "reasoning_content": 1}])", "messages[0].reasoning_content"},
           {user("1"), "messages[0].content"},
           {user("[1]"), "messages[0].content[0]"},
           {user(R"([{"type": "text"}])"), "messages[0].content[0].text"},
           {user(R"([{"type": "text", "text": 1}])"), "messages[0].content[0].text"},
           {user(R"([{"type": "text", "text": "a", "x": 1}])"), "messages[0].content[0].x"},
           {user(R"([{"type": "text", "text": "a"}, {"type": "image_url"}])"), "messages[0].content[1].image_url"},
           {user(R"([{"type": "image_url", "image_url": 1}])"), "messages[0].content[0].image_url"},
           {user(R"([{"type": "image_url", "image_url": {}}])"), "messages[0].content[0].image_url.url"},
           {user(R"([{"type": "image_url", "image_url": {"url": "u", "x": 1}}])"),
            "messages[0].content[0].image_url.x"},
           {user(R"([{"type": "image_url", "image_url": {"url": "u"}, "x": 1}])"), "messages[0].content[0].x"},
           {user(R"([{"type": "image_url", "image_url": {"url": "u"}, "preprocess_kwargs": 1}])"),
            "messages[0].content[0].preprocess_kwargs"},
       }) {
    expect_error(read_chat_request(R"({"messages": )" + messages + "}", test_rules()), ErrorCode::invalid_argument,
                 where, messages);
  }
  expect_error(read_chat_request("{}", test_rules()), ErrorCode::invalid_argument, "messages", "no messages");
  for (const auto& [messages, where] : std::vector<std::pair<std::string, std::string>>{
           {R"([{"role": "tool", "content": "a"}])", "messages[0].role"},
           {R"([{"role": "function", "content": "a"}])", "messages[0].role"},
           {R"([{"role": "assistant", "content": "a", "tool_calls": [{}]}])", "messages[0].tool_calls"},
           {R"([{"role": "assistant", "content": "a", "function_call": {}}])", "messages[0].function_call"},
           {user(R"([{"type": "video_url", "video_url": {"url": "u", "sharpen": 1}}])"),
            "messages[0].content[0].video_url.sharpen"},
           {user(R"([{"type": "video_url", "video_url": {"url": "u", "preprocess_kwargs": {"resized_height": 28}}}])"),
            "messages[0].content[0].video_url.preprocess_kwargs.resized_height"},
           {user(R"([{"type": "input_audio", "input_audio": {}}])"), "messages[0].content[0]"},
           {user(R"([{"type": "file", "file": {}}])"), "messages[0].content[0]"},
       }) {
    expect_error(read_chat_request(R"({"messages": )" + messages + "}", test_rules()), ErrorCode::unsupported, where,
                 messages);
  }
}

TEST(CompletionRequest, PromptsInEveryForm) {
  const auto read = [](const std::string& prompt, const std::string& more = {}) {
    return must_read(read_completion_request(R"({"prompt": )" + prompt + more + "}", test_rules()));
  };
  const auto text_of = [](const ChatRequest& chat) { return std::get<prompt::PlainPrompt>(chat.source).text; };
  const auto ids_of = [](const ChatRequest& chat) { return std::get<std::vector<int32_t>>(chat.source); };
  EXPECT_EQ(text_of(read("\"a\"").chats.at(0)), "a");
  EXPECT_FALSE(std::get<prompt::PlainPrompt>(read("\"a\"").chats[0].source).parse_special);
  EXPECT_TRUE(std::get<prompt::PlainPrompt>(read("\"a\"", R"(, "parse_special": true)").chats[0].source).parse_special);
  EXPECT_EQ(text_of(read(R"(["a", "b"])").chats.at(1)), "b");
  EXPECT_EQ(ids_of(read("[1, 2]").chats.at(0)), std::vector<int32_t>({1, 2}));
  EXPECT_EQ(read("[1, 2]").chats.size(), 1U);
  EXPECT_EQ(ids_of(read("[[1, 2], [3]]").chats.at(1)), std::vector<int32_t>({3}));
  EXPECT_FALSE(read("\"a\"").chats[0].separate_reasoning);
  EXPECT_EQ(read("\"a\"", R"(, "logprobs": 0)").shape.logprobs, 0);
  EXPECT_EQ(read("\"a\"", R"(, "logprobs": 3)").chats[0].request.sampling.logprobs, 3);
}

TEST(CompletionRequest, NamesWhatIsWrong) {
  for (const auto& [fields, where] : std::vector<std::pair<std::string, std::string>>{
           {"", "prompt"},
           {R"("prompt": 1)", "prompt"},
           {R"("prompt": {})", "prompt"},
           {R"("prompt": [])", "prompt"},
           {R"("prompt": [[]])", "prompt[0]"},
           {R"("prompt": ["a", 1])", "prompt[1]"},
           {R"("prompt": [1, "a"])", "prompt"},
           {R"("prompt": [1, -1])", "prompt"},
           {R"("prompt": ["a", "b"], "n": 65)", "n"},
           {R"("prompt": "a", "logprobs": true)", "logprobs"},
           {R"("prompt": "a", "messages": [])", "messages"},
       }) {
    expect_error(read_completion_request("{" + fields + "}", test_rules()), ErrorCode::invalid_argument, where, fields);
  }
  for (const auto& [name, asks, neutral] : std::vector<std::array<std::string, 3>>{
           {"echo", "true", "false"}, {"suffix", "\"s\"", "null"}, {"best_of", "2", "1"}}) {
    const std::string field = R"({"prompt": "a", ")" + name + "\": ";
    expect_error(read_completion_request(field + asks + "}", test_rules()), ErrorCode::unsupported, name, asks);
    EXPECT_TRUE(read_completion_request(field + neutral + "}", test_rules())) << name;
  }
}

TEST(GenerateRequest, ReadsSglangsForm) {
  const ApiRequest api = must_read(read_generate_request(
      R"({"text": "a", "sampling_params": {"temperature": 0.5, "max_new_tokens": 7, "n": 2, "stop": ["s"]}, "stream": true,
          "return_logprob": true, "top_logprobs_num": 2, "return_text_in_logprobs": true, "logprob_start_len": -1,
          "rid": "mine", "priority": 3, "timeout": 9, "cache_salt": "s", "parse_special": true, "log_metrics": false,
          "image_data": null})",
      test_rules()));
  const engine::Request& request = api.chats.at(0).request;
  EXPECT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.stop.max_tokens, 7);
  EXPECT_EQ(request.stop.strings, std::vector<std::string>({"s"}));
  EXPECT_EQ(request.replies, 2);
  EXPECT_EQ(request.priority, 3);
  EXPECT_EQ(request.cache_salt, "tenant/s");
  EXPECT_TRUE(request.deadline);
  EXPECT_EQ(request.sampling.logprobs, 2);
  EXPECT_EQ(api.shape.logprobs, 2);
  EXPECT_TRUE(api.shape.logprob_texts);
  EXPECT_TRUE(api.shape.stream);
  EXPECT_EQ(api.shape.rid, "mine");
  EXPECT_EQ(api.shape.tenant, "tenant");
  EXPECT_FALSE(api.shape.is_batch);
  EXPECT_TRUE(std::get<prompt::PlainPrompt>(api.chats[0].source).parse_special);

  const ApiRequest batch = must_read(read_generate_request(R"({"input_ids": [[1, 2], [3]]})", test_rules()));
  EXPECT_TRUE(batch.shape.is_batch);
  EXPECT_EQ(batch.chats.size(), 2U);
  EXPECT_EQ(batch.chats[0].request.stop.max_tokens, 128);
  RequestRules hurried = test_rules();
  hurried.timeout = std::chrono::seconds(1);
  EXPECT_TRUE(must_read(read_generate_request(R"({"text": "a"})", hurried)).chats[0].request.deadline);
}

TEST(GenerateRequest, NamesWhatIsWrong) {
  for (const auto& [fields, where] : std::vector<std::pair<std::string, std::string>>{
           {"", "text"},
           {R"("text": "a", "input_ids": [1])", "text"},
           {R"("text": 1)", "text"},
           {R"("text": [1, 2])", "text"},
           {R"("input_ids": "a")", "input_ids"},
           {R"("input_ids": ["a"])", "input_ids"},
           {R"("input_ids": "a", "text": null, "sampling_params": [])", "sampling_params"},
           {R"("text": "a", "sampling_params": {"top_p": 7})", "sampling_params.top_p"},
           {R"("text": "a", "sampling_params": {"regex": "a"})", "sampling_params.regex"},
           {R"("text": ["a", "b"], "sampling_params": {"n": 100})", "sampling_params.n"},
           {R"("text": "a", "model": "keye")", "model"},
       }) {
    expect_error(read_generate_request("{" + fields + "}", test_rules()), ErrorCode::invalid_argument, where, fields);
  }
  for (const auto& [name, asks, neutral] :
       std::vector<std::array<std::string, 3>>{{"image_data", "\"u\"", "[]"},
                                               {"logprob_start_len", "0", "-1"},
                                               {"return_hidden_states", "true", "false"},
                                               {"lora_path", "\"l\"", "null"}}) {
    const std::string field = R"({"text": "a", ")" + name + "\": ";
    expect_error(read_generate_request(field + asks + "}", test_rules()), ErrorCode::unsupported, name, asks);
    EXPECT_TRUE(read_generate_request(field + neutral + "}", test_rules())) << name;
  }
}

TEST(FieldTables, EveryRowIsRead) {
  using Reader = Result<ApiRequest> (*)(std::string_view, const RequestRules&);
  struct Table {
    const std::vector<FieldRow>& rows;
    Reader read;
    std::string good;  // a member without which the request is refused
  };
  for (const Table& table : {Table{chat_fields(), read_chat_request, kMessages},
                             Table{completion_fields(), read_completion_request, R"("prompt": "a")"},
                             Table{generate_fields(), read_generate_request, R"("text": "a")"}}) {
    std::set<std::string_view> names;
    for (const FieldRow& row : table.rows) {
      EXPECT_TRUE(names.insert(row.name).second) << row.name << " stands there twice";
      EXPECT_FALSE(row.note.empty()) << row.name;
      EXPECT_TRUE(Json::parse(row.schema).is_object()) << row.name;
      if (table.good.find(fmt::format("\"{}\"", row.name)) != std::string::npos) continue;
      const std::string body = fmt::format("{{{}, \"{}\": null}}", table.good, row.name);
      EXPECT_TRUE(table.read(body, test_rules())) << body;
      if (row.status == FieldStatus::supported) continue;
      // Refused and idle fields: an object that asks for something.
      const auto request = table.read(fmt::format(R"({{{}, "{}": {{"x": 1}}}})", table.good, row.name), test_rules());
      EXPECT_EQ(request.has_value(), row.status == FieldStatus::no_effect) << row.name;
      EXPECT_EQ(request ? std::string_view(row.name) : std::string_view(request.error().where), row.name);
    }
  }
}

}  // namespace
}  // namespace keye::server
