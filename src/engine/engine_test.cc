// The engine with the model that comes with the project: many requests at once, and how they end.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/engine_loop.h"

namespace keye::engine {
namespace {

constexpr const char* kModel = "models/keye-nano";

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().to_string());
  return std::move(result).value();
}

LoadedModel load_nano(int step_tokens = 256) {
  return must(load(kModel, {.device = {.threads = 2}, .step_tokens_max = step_tokens, .step_logits_max = 64}));
}

std::shared_ptr<const prompt::Prompt> question(const prompt::PromptBuilder& builder, const std::string& text,
                                               const std::string& picture = {}) {
  text::Values parts;
  if (!picture.empty()) {
    text::Dict url;
    url.set("url", text::Value(std::string_view(picture)));
    text::Dict part;
    part.set("type", text::Value("image_url"));
    part.set("image_url", text::Value::dict(std::move(url)));
    parts.push_back(text::Value::dict(std::move(part)));
  }
  text::Dict words;
  words.set("type", text::Value("text"));
  words.set("text", text::Value(std::string_view(text)));
  parts.push_back(text::Value::dict(std::move(words)));
  text::Dict message;
  message.set("role", text::Value("user"));
  message.set("content", text::Value::list(std::move(parts)));
  prompt::Conversation conversation;
  conversation.messages = text::Value::list({text::Value::dict(std::move(message))});
  return std::make_shared<const prompt::Prompt>(must(builder.build(conversation, {.policy = {.any_path = true}})));
}

/// Collects what a sink hears.
class Listener {
 public:
  TokenSink sink() {
    return [this](TokenEvent&& event) {
      const std::lock_guard lock(mutex_);
      texts_[event.reply] += event.text;
      if (event.token >= 0) tokens_[event.reply].push_back(event.token);
      cached_ = event.cached_tokens;
      if (event.finish) {
        finishes_[event.reply].push_back(*event.finish);
        done_.notify_all();
      }
    };
  }
  void wait(size_t replies = 1) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(done_.wait_for(lock, std::chrono::seconds(60), [&] { return finishes_.size() == replies; }));
  }
  std::string text(int reply = 0) {
    return locked([&] { return texts_[reply]; });
  }
  std::vector<int32_t> tokens(int reply = 0) {
    return locked([&] { return tokens_[reply]; });
  }
  std::vector<FinishReason> finishes(int reply = 0) {
    return locked([&] { return finishes_.contains(reply) ? finishes_[reply] : std::vector<FinishReason>(); });
  }
  int64_t cached() {
    return locked([&] { return cached_; });
  }

 private:
  template <class F>
  std::invoke_result_t<F> locked(F f) {
    const std::lock_guard lock(mutex_);
    return f();
  }
  std::mutex mutex_;
  std::condition_variable done_;
  std::map<int, std::string> texts_;
  std::map<int, std::vector<int32_t>> tokens_;
  std::map<int, std::vector<FinishReason>> finishes_;
  int64_t cached_ = -1;
};

Request request_for(std::shared_ptr<const prompt::Prompt> prompt, const Engine& engine, int max_tokens = 40) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0.9F;
  request.sampling.seed = 11;
  request.stop.max_tokens = max_tokens;
  request.stop.token_ids = engine.generation().eos_ids;
  return request;
}

/// All questions at once; the tokens of each.
std::vector<std::vector<int32_t>> ask_all(Engine& engine,
                                          const std::vector<std::shared_ptr<const prompt::Prompt>>& prompts,
                                          int tokens_of_each = 50) {
  std::vector<std::unique_ptr<Listener>> listeners;
  for (const auto& prompt : prompts) {
    listeners.push_back(std::make_unique<Listener>());
    Request request = request_for(prompt, engine, tokens_of_each);
    request.stop.ignore_eos = true;
    must(engine.submit(request, listeners.back()->sink()));
  }
  std::vector<std::vector<int32_t>> tokens;
  for (const auto& listener : listeners) {
    listener->wait();
    EXPECT_EQ(listener->finishes().size(), 1U);
    tokens.push_back(listener->tokens());
  }
  return tokens;
}

/// Sinks hear of a finish before the turn is over that brought it.
EngineStats settled_stats(const Engine& engine) {
  EngineStats stats = engine.stats();
  for (int i = 0; i < 1000 && (stats.running > 0 || stats.waiting > 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    stats = engine.stats();
  }
  return stats;
}

std::vector<std::shared_ptr<const prompt::Prompt>> some_prompts(const prompt::PromptBuilder& builder) {
  std::vector<std::shared_ptr<const prompt::Prompt>> prompts;
  std::string long_text = "Numbers:";
  for (int i = 0; i < 120; ++i) long_text += fmt::format(" {}", i);
  for (int i = 0; i < 4; ++i) {
    prompts.push_back(question(builder, fmt::format("{}. What is {} + {}?", long_text, i, i + 3)));
    prompts.push_back(question(builder, "List the bars from left to right.", "models/keye-nano/chart.png"));
    prompts.push_back(question(builder, fmt::format("{} What word is written?", i), "models/keye-nano/demo.png"));
  }
  return prompts;
}

TEST(EngineTest, SameRepliesAloneTogetherCachedChunkedAndPreempted) {
  std::vector<std::vector<int32_t>> alone;
  {
    Engine engine(load_nano(), {.kv_tokens = 4096, .prefix_cache = false});
    for (const auto& prompt : some_prompts(engine.prompts())) alone.push_back(ask_all(engine, {prompt})[0]);
  }
  struct Setting {
    const char* name;
    EngineOptions options;
  };
  for (const Setting& setting :
       {Setting{"together", {.kv_tokens = 16384, .prefix_cache = false}}, Setting{"cached", {.kv_tokens = 16384}},
        Setting{"chunks of 7", {.kv_tokens = 16384, .chunk_tokens = 7}},
        Setting{"no vision cache", {.kv_tokens = 16384, .vision_cache_bytes = 0}}}) {
    SCOPED_TRACE(setting.name);
    Engine engine(load_nano(), setting.options);
    const auto prompts = some_prompts(engine.prompts());
    EXPECT_EQ(ask_all(engine, prompts), alone);
    EXPECT_EQ(ask_all(engine, prompts), alone) << "a second time, warm";
    const EngineStats stats = settled_stats(engine);
    EXPECT_EQ(stats.cached_tokens > 0, setting.options.prefix_cache);
    EXPECT_EQ(stats.pages_used, 0);
  }
}

TEST(EngineTest, SameRepliesWhereSomeLoseTheirPages) {
  Engine engine(load_nano(), {.kv_tokens = 512});
  std::vector<std::shared_ptr<const prompt::Prompt>> prompts;
  for (const char* text : {"What is 3 + 4?", "Describe the picture.", "What word is written?", "How many bars?"}) {
    prompts.push_back(question(engine.prompts(), text, "models/keye-nano/demo.png"));
  }
  std::vector<std::vector<int32_t>> alone;
  alone.reserve(prompts.size());
  for (const auto& prompt : prompts) alone.push_back(ask_all(engine, {prompt}, 250)[0]);
  EXPECT_EQ(ask_all(engine, prompts, 250), alone);
  EXPECT_GT(settled_stats(engine).preemptions, 0U);
}

TEST(EngineTest, PicturesAreEncodedOnce) {
  Engine engine(load_nano(), {.kv_tokens = 4096, .prefix_cache = false});
  const auto prompt = question(engine.prompts(), "What word is written?", "models/keye-nano/demo.png");
  const auto first = ask_all(engine, {prompt});
  EXPECT_EQ(ask_all(engine, {prompt}), first);
  EXPECT_EQ(engine.stats().pictures_encoded, 1U);
  EXPECT_EQ(engine.stats().pictures_found, 1U);
  engine.flush_cache();
  EXPECT_EQ(ask_all(engine, {prompt}), first);
  EXPECT_EQ(engine.stats().pictures_encoded, 2U);
}

TEST(EngineTest, RepliesOfOneRequestHaveSeedsOfTheirOwn) {
  for (const bool cache : {true, false}) {
    Engine engine(load_nano(), {.kv_tokens = 8192, .prefix_cache = cache});
    const auto prompt = question(engine.prompts(), "Describe the picture.", "models/keye-nano/demo.png");
    Request request = request_for(prompt, engine);
    request.sampling.temperature = 1.5F;
    request.replies = 3;
    Listener together;
    must(engine.submit(request, together.sink()));
    together.wait(3);
    EXPECT_EQ(engine.stats().pictures_encoded, 1U);
    for (int i = 0; i < 3; ++i) {
      Request single = request;
      single.replies = 1;
      single.sampling.seed += static_cast<uint64_t>(i);
      Listener alone;
      must(engine.submit(single, alone.sink()));
      alone.wait();
      EXPECT_EQ(alone.tokens(), together.tokens(i));
    }
  }
}

TEST(EngineTest, EveryReplyEndsOnceWhateverHappens) {
  Engine engine(load_nano(), {.kv_tokens = 2048, .running_max = 4, .queued_max = 100});
  const auto prompts = some_prompts(engine.prompts());
  std::vector<std::unique_ptr<Listener>> listeners;
  for (size_t i = 0; i < 60; ++i) {
    listeners.push_back(std::make_unique<Listener>());
    Request request = request_for(prompts[i % prompts.size()], engine, 60);
    request.stop.ignore_eos = true;
    if (i % 5 == 0) request.deadline = Clock::now() + std::chrono::milliseconds(i);
    const RequestId id = must(engine.submit(request, listeners.back()->sink()));
    if (i % 3 == 0) engine.abort(id);
    if (i % 7 == 0) engine.hold(id, true);
    if (i % 7 == 0 && i % 2 == 0) engine.hold(id, false);
    if (i % 7 == 0 && i % 2 == 1 && i % 5 != 0) engine.abort(id);
    if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  for (size_t i = 0; i < 50; ++i) listeners[i]->wait();
  engine.stop();
  int with_other_reason = 0;
  for (const auto& listener : listeners) {
    listener->wait();
    ASSERT_EQ(listener->finishes().size(), 1U);
    with_other_reason += listener->finishes()[0] != FinishReason::length ? 1 : 0;
  }
  EXPECT_GT(with_other_reason, 10);
  EXPECT_FALSE(engine.submit(request_for(prompts[0], engine), [](TokenEvent&&) {}));
}

/// What a step is made of, and can be left at.
void run_an_op(ops::Backend& backend) {
  const std::array<float, 2> from{1, 2};
  std::array<float, 2> to{};
  ops::convert(backend, {{from.data(), DType::f32, {2}}, {to.data(), DType::f32, {2}}});
}

/// A model whose long steps take a minute, as those of large models at long contexts do.
class SlowModel final : public model::Model {
 public:
  SlowModel(std::unique_ptr<model::Model> model, std::atomic<int>& slow_steps)
      : model_(std::move(model)), slow_steps_(slow_steps) {}

  const model::ModelConfig& config() const override { return model_->config(); }
  const model::KvSpec& kv_spec() const override { return model_->kv_spec(); }
  ops::Backend& backend() override { return model_->backend(); }
  int step_tokens_max() const override { return model_->step_tokens_max(); }
  int step_logits_max() const override { return model_->step_logits_max(); }
  void begin_vision(ConstView pixels, std::span<const model::VisionGrid> grids, View out) override {
    model_->begin_vision(pixels, grids, out);
  }
  bool advance_vision() override { return model_->advance_vision(); }
  void forward(const model::StepInput& input, model::KvCache& cache, View logits) override {
    if (input.tokens.size() > 100) {
      ++slow_steps_;
      for (int i = 0; i < 60'000; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        run_an_op(backend());
      }
    }
    model_->forward(input, cache, logits);
  }
  void set_probe(model::Probe probe) override { model_->set_probe(std::move(probe)); }

 private:
  std::unique_ptr<model::Model> model_;
  std::atomic<int>& slow_steps_;
};

TEST(EngineTest, AnAbortDoesNotWaitForTheStep) {
  std::atomic<int> slow_steps = 0;
  LoadedModel loaded = load_nano();
  loaded.model = std::make_unique<SlowModel>(std::move(loaded.model), slow_steps);
  Engine engine(std::move(loaded), {.kv_tokens = 4096});
  const auto brief = question(engine.prompts(), "What is 3 + 4?");
  const auto expected = ask_all(engine, {brief}, 400)[0];
  const auto long_one = some_prompts(engine.prompts())[0];
  ASSERT_GT(long_one->tokens.size(), 200U);

  Listener beside;
  Request other = request_for(brief, engine, 400);
  other.stop.ignore_eos = true;
  must(engine.submit(other, beside.sink()));
  for (int round = 1; round <= 3; ++round) {
    Listener listener;
    const RequestId id = must(engine.submit(request_for(long_one, engine), listener.sink()));
    while (slow_steps < round) std::this_thread::yield();
    const Clock::time_point start = Clock::now();
    engine.abort(id, FinishReason::cancelled);
    listener.wait();
    EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));  // milliseconds, where nothing else runs
    EXPECT_EQ(listener.finishes(), std::vector{FinishReason::cancelled});
    // The next step is one that is not left, as others lost theirs: it must not be a slow one.
    const size_t heard = beside.tokens().size();
    while (beside.finishes().empty() && beside.tokens().size() < heard + 2) std::this_thread::yield();
  }
  beside.wait();
  EXPECT_EQ(beside.finishes(), std::vector{FinishReason::length});
  EXPECT_EQ(beside.tokens(), expected);  // whatever was left in the middle
  EXPECT_EQ(settled_stats(engine).steps_abandoned, 3U);

  Listener last;  // and stopping does not wait either
  must(engine.submit(request_for(long_one, engine), last.sink()));
  while (slow_steps < 4) std::this_thread::yield();
  const Clock::time_point start = Clock::now();
  engine.stop();
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(last.finishes(), std::vector{FinishReason::shutdown});
}

TEST(InterruptibleTest, WorkThatOthersLostIsNotLeftTwice) {
  const auto backend = must(ops::make_cpu_backend({.threads = 2}));
  Interruptible work(*backend);
  const auto run = [&](std::vector<RequestId> requests, RequestId abandoned) {
    return work.run(requests, [&] {
      work.abandon(abandoned);
      run_an_op(*backend);
    });
  };
  EXPECT_TRUE(run({1, 2}, 9));   // somebody else's
  EXPECT_FALSE(run({1, 2}, 2));  // 1 lost its work
  EXPECT_FALSE(run({1, 2}, 9));  // not begun: the engine has not heard of the end of 2
  work.forget(2);
  EXPECT_TRUE(run({1, 3}, 3));
  work.forget(3);
  EXPECT_FALSE(run({1, 4}, 4));
  work.forget(4);
  EXPECT_TRUE(run({1}, 9));
  EXPECT_FALSE(run({1}, 1));  // nobody lost anything
  work.forget(1);
  EXPECT_FALSE(run({5}, 5));
  work.abandon_all();
  EXPECT_FALSE(run({6}, 9));
}

TEST(EngineTest, AFullQueueIsRefused) {
  Engine engine(load_nano(), {.kv_tokens = 2048, .running_max = 1, .queued_max = 2});
  const auto prompt = question(engine.prompts(), "What is 3 + 4?");
  Request request = request_for(prompt, engine, 1000);
  request.stop.ignore_eos = true;
  std::vector<std::unique_ptr<Listener>> listeners;
  int refused = 0;
  for (int i = 0; i < 10; ++i) {
    listeners.push_back(std::make_unique<Listener>());
    const auto id = engine.submit(request, listeners.back()->sink());
    if (!id) {
      ++refused;
      EXPECT_EQ(id.error().code, ErrorCode::overloaded);
    }
  }
  EXPECT_GE(refused, 7);
  EXPECT_LE(refused, 9);
  engine.stop();
}

TEST(EngineTest, RequestsThatCannotBeAreRefusedByName) {
  Engine engine(load_nano(), {.kv_tokens = 1024});
  EXPECT_EQ(engine.context_max(), 1024);
  const auto prompt = question(engine.prompts(), "What is 3 + 4?");
  const auto refused = [&](auto change) {
    Request request = request_for(prompt, engine);
    change(request);
    return engine.submit(request, [](TokenEvent&&) {}).error();
  };
  EXPECT_EQ(refused([](Request& r) { r.sampling.temperature = -1; }).where, "temperature");
  EXPECT_EQ(refused([](Request& r) { r.replies = 0; }).where, "n");
  EXPECT_EQ(refused([](Request& r) { r.stop.max_tokens = 0; }).where, "max_tokens");
  const Error too_long = refused([&](Request& r) {
    r.prompt = std::make_shared<const prompt::Prompt>(engine.prompts().from_tokens(std::vector<int32_t>(1024, 5)));
  });
  EXPECT_EQ(too_long.code, ErrorCode::too_large);
  EXPECT_NE(too_long.message.find("1024"), std::string::npos);
  EXPECT_EQ(refused([&](Request& r) {
              r.prompt = std::make_shared<const prompt::Prompt>(engine.prompts().from_tokens({-1}));
            }).code,
            ErrorCode::invalid_argument);
}

TEST(EngineTest, RepliesEndAtTheContext) {
  Engine engine(load_nano(), {.kv_tokens = 256});
  const auto prompt = question(engine.prompts(), "What is 3 + 4?");
  Request request = request_for(prompt, engine, 1'000'000);
  request.stop.ignore_eos = true;
  Listener listener;
  must(engine.submit(request, listener.sink()));
  listener.wait();
  EXPECT_EQ(listener.finishes(), std::vector{FinishReason::length});
  EXPECT_EQ(listener.tokens().size() + prompt->tokens.size(), 256U);
}

TEST(EngineTest, AFollowUpQuestionComputesOnlyTheNewText) {
  Engine engine(load_nano(), {.kv_tokens = 8192});
  const auto first = question(engine.prompts(), "List the bars from left to right.", "models/keye-nano/chart.png");
  ask_all(engine, {first});
  Listener listener;
  must(engine.submit(
      request_for(question(engine.prompts(), "How many bars does the chart have?", "models/keye-nano/chart.png"),
                  engine),
      listener.sink()));
  listener.wait();
  const prompt::VisionItem& picture = first->vision[0];
  EXPECT_GE(listener.cached(), (picture.first_token + picture.tokens) / ops::kPageTokens * ops::kPageTokens);
}

/// A question about frames that move to the right.
std::shared_ptr<const prompt::Prompt> clip_question(const prompt::PromptBuilder& builder) {
  text::Values frames;
  for (int i = 0; i < 5; ++i)
    frames.emplace_back(std::string_view(fmt::format("tests/golden/nano/clip_right_{}.png", i)));
  text::Dict part;
  part.set("type", text::Value("video"));
  part.set("video", text::Value::list(std::move(frames)));
  part.set("fps", text::Value(2.0));
  text::Dict words;
  words.set("type", text::Value("text"));
  words.set("text", text::Value("Which way does the shape move?"));
  text::Dict message;
  message.set("role", text::Value("user"));
  message.set("content", text::Value::list({text::Value::dict(std::move(part)), text::Value::dict(std::move(words))}));
  prompt::Conversation conversation;
  conversation.messages = text::Value::list({text::Value::dict(std::move(message))});
  return std::make_shared<const prompt::Prompt>(must(builder.build(conversation, {.policy = {.any_path = true}})));
}

std::string greedy_answer(Engine& engine, const std::shared_ptr<const prompt::Prompt>& prompt) {
  Request request = request_for(prompt, engine);
  request.sampling.temperature = 0;
  Listener listener;
  must(engine.submit(request, listener.sink()));
  listener.wait();
  return listener.text();
}

void wait_for_encoded(const Engine& engine, uint64_t pictures) {
  for (int i = 0; i < 2000 && engine.stats().pictures_encoded < pictures; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(EngineTest, FramesAreEncodedTogether) {
  Engine engine(load_nano(), {.kv_tokens = 4096});
  const auto prompt = clip_question(engine.prompts());
  ASSERT_EQ(prompt->vision.size(), 5U);
  EXPECT_EQ(greedy_answer(engine, prompt), "From left to right.");
  EXPECT_EQ(settled_stats(engine).pictures_encoded, 5U);
}

TEST(EngineTest, FramesAreEncodedAhead) {
  Engine engine(load_nano(), {.kv_tokens = 4096});
  const auto prompt = clip_question(engine.prompts());
  const RequestId preparing = engine.new_preparing();
  const std::vector<prompt::VisionItem>& frames = prompt->vision;
  engine.encode_ahead(preparing, {frames.begin(), frames.begin() + 3}, "");
  engine.encode_ahead(preparing, {frames.begin() + 3, frames.end()}, "");
  wait_for_encoded(engine, 5);
  engine.end_preparing(preparing);
  EXPECT_EQ(greedy_answer(engine, prompt), "From left to right.");
  const EngineStats stats = settled_stats(engine);
  EXPECT_EQ(stats.pictures_encoded, 5U);
  EXPECT_EQ(stats.pictures_found, 5U);
}

TEST(EngineTest, NobodyWaitsForFramesOfOthers) {
  Engine engine(load_nano(), {.kv_tokens = 4096, .vision_cache_bytes = 4096});
  const auto prompt = clip_question(engine.prompts());
  const RequestId preparing = engine.new_preparing();
  engine.encode_ahead(preparing, prompt->vision, "");  // more than may be kept: nothing happens
  engine.abort(preparing);
  EXPECT_EQ(greedy_answer(engine, prompt), "From left to right.");
  EXPECT_EQ(settled_stats(engine).pictures_encoded, 5U);
}

}  // namespace
}  // namespace keye::engine
