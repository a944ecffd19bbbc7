#include "engine/engine.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "comm/group.h"
#include "engine/engine_loop.h"

namespace keye::engine {

/// The loop, its thread, and what is on the way to it.
class Engine::Loop {
 public:
  Loop(LoadedModel loaded, const EngineOptions& options)
      : loaded_(std::move(loaded)), options_(options), loop_(loaded_, options) {
    const int64_t of_cache = int64_t{ops::pages_for(options.kv_tokens)} * ops::kPageTokens;
    const int64_t of_model = loaded_.model->config().text.positions_max;
    context_max_ = std::min(of_cache, of_model);
    if (options.context_max > 0) context_max_ = std::min(context_max_, options.context_max);
    stats_ = loop_.stats();
    thread_ = std::thread([this] { run(); });
  }

  void stop(FinishReason reason) {
    {
      const std::lock_guard lock(mutex_);
      if (!stopping_) stop_reason_ = reason;
      stopping_ = true;
    }
    loop_.work().abandon_all();
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  Result<RequestId> submit(Request request, TokenSink sink, Progress progress) {
    KEYE_TRY_VOID(check(request));
    const auto length = static_cast<int64_t>(request.prompt->tokens.size());
    request.stop.max_tokens = static_cast<int>(std::min<int64_t>(request.stop.max_tokens, context_max_ - length));
    auto shared = std::make_shared<const Request>(std::move(request));
    const std::lock_guard lock(mutex_);
    if (stopping_) return make_error(ErrorCode::unavailable, "", "the engine is stopping");
    const int waiting = in_queue_ + in_inbox_;
    const int room = options_.queued_max + std::max(0, options_.running_max - stats_.running);
    if (waiting + shared->replies > room) {
      return make_error(ErrorCode::overloaded, "", "{} replies wait for their turn, {} may", waiting,
                        options_.queued_max);
    }
    in_inbox_ += shared->replies;
    const RequestId id = ++last_request_;
    const Clock::time_point now = Clock::now();
    inbox_.emplace_back([this, id, shared, sink = std::move(sink), progress = std::move(progress), now] {
      loop_.add(id, shared, sink, progress, now);
    });
    wake_.notify_one();
    return id;
  }

  RequestId new_preparing() {
    const std::lock_guard lock(mutex_);
    return ++last_request_;
  }

  /// To be done between two turns.
  void post(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      inbox_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

  void abort(RequestId id, FinishReason reason) {
    loop_.work().abandon(id);
    post([this, id, reason] {
      loop_.end(id, reason);
      loop_.work().forget(id);
    });
  }

  EngineStats stats() const {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.waiting = in_queue_ + in_inbox_;
    stats.seconds_since_step = std::chrono::duration<double>(Clock::now() - last_turn_).count();
    return stats;
  }

  LoadedModel& loaded() { return loaded_; }
  EngineLoop& loop() { return loop_; }
  int64_t context_max() const { return context_max_; }

 private:
  Result<void> check(const Request& request) const;
  void run();
  bool turn();
  /// What has arrived; waits for something if `idle`. False: the engine stops.
  bool take_inbox(bool idle, std::vector<std::function<void()>>& tasks);

  LoadedModel loaded_;
  EngineOptions options_;
  EngineLoop loop_;
  int64_t context_max_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> inbox_;
  int in_inbox_ = 0;  // replies that the loop does not know yet
  int in_queue_ = 0;  // replies that wait in the scheduler
  RequestId last_request_ = 0;
  bool stopping_ = false;
  FinishReason stop_reason_ = FinishReason::shutdown;
  EngineStats stats_;
  Clock::time_point last_turn_ = Clock::now();
  std::thread thread_;
};

Result<void> Engine::Loop::check(const Request& request) const {
  const int vocab = loaded_.model->config().text.vocab;
  KEYE_TRY_VOID(check_sampling(request.sampling, vocab));
  if (request.prompt->tokens.empty()) return make_error(ErrorCode::invalid_argument, "prompt", "is empty");
  if (request.replies < 1 || request.replies > kRepliesMax) {
    return make_error(ErrorCode::invalid_argument, "n", "should be in [1, {}], got {}", kRepliesMax, request.replies);
  }
  if (request.stop.max_tokens < 1) {
    return make_error(ErrorCode::invalid_argument, "max_tokens", "should be at least 1, got {}",
                      request.stop.max_tokens);
  }
  for (const int32_t token : request.prompt->tokens) {
    if (token < 0 || token >= vocab) {
      return make_error(ErrorCode::invalid_argument, "prompt", "token id {} is not in [0, {})", token, vocab);
    }
  }
  const auto length = static_cast<int64_t>(request.prompt->tokens.size());
  if (length >= context_max_) {
    return make_error(ErrorCode::too_large, "prompt",
                      "has {} tokens; the context holds {}, at least one of them the reply's", length, context_max_);
  }
  return {};
}

void Engine::Loop::run() {
  ::pthread_setname_np(::pthread_self(), "keye-engine");
  std::vector<std::function<void()>> tasks;
  bool worked = false;
  while (take_inbox(!worked, tasks)) {
    for (const auto& task : tasks) task();
    tasks.clear();
    worked = turn();
    const EngineStats stats = loop_.stats();
    const std::lock_guard lock(mutex_);
    stats_ = stats;
    in_queue_ = stats.waiting;
    last_turn_ = Clock::now();
  }
  for (const auto& task : tasks) task();
  loop_.end_all(stop_reason_);
}

/// One of the loop's. Without all ranks it was the last.
bool Engine::Loop::turn() {
  try {
    return loop_.turn(Clock::now());
  } catch (const comm::PeerLost&) {
    const std::lock_guard lock(mutex_);
    stop_reason_ = FinishReason::lost;
    stopping_ = true;
    return true;
  }
}

bool Engine::Loop::take_inbox(bool idle, std::vector<std::function<void()>>& tasks) {
  std::unique_lock lock(mutex_);
  const auto has_news = [this] { return stopping_ || !inbox_.empty(); };
  if (idle) {
    if (const auto deadline = loop_.next_deadline()) {
      wake_.wait_until(lock, *deadline, has_news);
    } else {
      wake_.wait(lock, has_news);
    }
  }
  std::swap(tasks, inbox_);
  in_queue_ += std::exchange(in_inbox_, 0);
  return !stopping_;
}

Engine::Engine(LoadedModel loaded, const EngineOptions& options)
    : loop_(std::make_unique<Loop>(std::move(loaded), options)) {}
Engine::~Engine() { stop(FinishReason::shutdown); }

const prompt::PromptBuilder& Engine::prompts() const { return *loop_->loaded().prompts; }
const model::ModelConfig& Engine::config() const { return loop_->loaded().model->config(); }
const model::GenerationDefaults& Engine::generation() const { return loop_->loaded().generation; }
int64_t Engine::context_max() const { return loop_->context_max(); }

Result<RequestId> Engine::submit(Request request, TokenSink sink, Progress progress) {
  return loop_->submit(std::move(request), std::move(sink), std::move(progress));
}
RequestId Engine::new_preparing() { return loop_->new_preparing(); }
void Engine::encode_ahead(RequestId preparing, std::vector<prompt::VisionItem> frames, const std::string& cache_salt) {
  loop_->post([loop = &loop_->loop(), preparing, frames = std::move(frames), cache_salt] {
    loop->encode_ahead(preparing, frames, cache_salt);
  });
}
void Engine::end_preparing(RequestId preparing) {
  loop_->post([loop = &loop_->loop(), preparing] { loop->end_preparing(preparing); });
}
void Engine::abort(RequestId id, FinishReason reason) { loop_->abort(id, reason); }
void Engine::hold(RequestId id, bool held) {
  loop_->post([loop = &loop_->loop(), id, held] { loop->hold(id, held); });
}
void Engine::flush_cache() {
  loop_->post([loop = &loop_->loop()] { loop->flush_cache(); });
}
EngineStats Engine::stats() const { return loop_->stats(); }
void Engine::stop(FinishReason reason) { loop_->stop(reason); }

}  // namespace keye::engine
