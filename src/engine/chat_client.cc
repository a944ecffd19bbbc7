#include "engine/chat_client.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "prompt/media_loader.h"

namespace keye::engine {
namespace {

/// What replies of these models look like.
prompt::ReplyStyle style_of(const model::ModelConfig& config) {
  const std::string& name = config.architecture;
  if (name == "KeyeForConditionalGeneration" || name == "KeyeVL1_5ForConditionalGeneration" ||
      name == "KeyeVLMoeForConditionalGeneration") {
    return prompt::ReplyStyle::auto_think;
  }
  return prompt::ReplyStyle::think;
}

bool has_pictures(const PromptSource& source) {
  const auto* conversation = std::get_if<prompt::Conversation>(&source);
  if (conversation == nullptr || !conversation->messages.is_sequence()) return false;
  const text::Values& messages = conversation->messages.items();
  return std::any_of(messages.begin(), messages.end(), [](const text::Value& message) {
    const text::Value* content = message.is(text::Kind::dict) ? message.dict().find("content") : nullptr;
    if (content == nullptr || !content->is_sequence()) return false;
    const text::Values& parts = content->items();
    return std::any_of(parts.begin(), parts.end(), [](const text::Value& part) {
      const text::Value* type = part.is(text::Kind::dict) ? part.dict().find("type") : nullptr;
      return type == nullptr || !type->is_string() || type->text() != "text";
    });
  });
}

int64_t picture_bytes(const prompt::Prompt& prompt) {
  int64_t bytes = 0;
  for (const prompt::VisionItem& item : prompt.vision) bytes += static_cast<int64_t>(item.image->rgb.size());
  return bytes;
}

}  // namespace

class ChatClient::Call final : public ChatCall, public std::enable_shared_from_this<Call> {
 public:
  Call(ChatClient& client, ChatRequest request, std::shared_ptr<ChatListener> listener)
      : client_(client),
        engine_(client.engine_),
        request_(std::move(request)),
        listener_(std::move(listener)),
        held_bytes_(client.picture_bytes_) {}
  ~Call() override { *held_bytes_ -= own_bytes_; }

  const PromptSource& source() const { return request_.source; }
  /// On a thread of the pool.
  void prepare(const std::stop_token& client_stops) {
    {
      const std::lock_guard lock(mutex_);
      if (stage_ == Stage::over) return;
      stage_ = Stage::preparing;
    }
    const std::stop_callback on_stop(client_stops, [this] { stop_.request_stop(); });
    auto prompt = build();
    if (ahead_) engine_.end_preparing(*ahead_);  // the rest is encoded as the prompt needs it
    request_.source = {};                        // what was sent may be much larger than what it became
    if (prompt) {
      if (auto taken = take_room(picture_bytes(*prompt)); !taken) prompt = taken.error();
    }
    --client_.preparing_;
    if (!prompt) return listener_->on_error(Error(prompt.error()));
    submit(std::move(prompt).value());
  }

  void abort(FinishReason reason) override {
    std::optional<Error> error;
    {
      const std::lock_guard lock(mutex_);  // as long as it is held, the client waits for its threads
      reason_ = reason;
      stop_.request_stop();
      if (id_) engine_.abort(*id_, reason);
      if (ahead_ && !id_) engine_.abort(*ahead_, reason);
      if (stage_ != Stage::waiting) return;
      stage_ = Stage::over;  // it need not wait for a thread only to hear that
      request_ = {};
      --client_.preparing_;
      error = cancelled();
    }
    listener_->on_error(std::move(*error));
  }

  void hold(bool held) override {
    const std::lock_guard lock(mutex_);
    held_ = held;
    if (id_) engine_.hold(*id_, held);
  }

 private:
  struct Split {
    std::optional<prompt::ReplyParser> parser;
    bool started = false;
  };

  enum class Stage : uint8_t { waiting, preparing, over };

  Error cancelled() const {
    if (client_.stopping_.stop_requested()) return {ErrorCode::unavailable, "the server is shutting down", ""};
    return {ErrorCode::cancelled, "the request was cancelled", ""};
  }
  Result<prompt::Prompt> build();
  void encode_ahead(std::span<const prompt::VisionItem> frames);
  Result<void> take_room(int64_t bytes);
  void submit(prompt::Prompt prompt);
  ChatEvent split(TokenEvent&& event);

  ChatClient& client_;
  Engine& engine_;
  ChatRequest request_;
  std::shared_ptr<ChatListener> listener_;
  std::stop_source stop_;
  std::vector<Split> replies_;
  std::mutex order_;  // of what the listener hears
  std::mutex mutex_;  // of the rest
  Stage stage_ = Stage::waiting;
  std::optional<RequestId> id_;
  std::optional<RequestId> ahead_;  // for what is encoded while the rest is prepared
  FinishReason reason_ = FinishReason::cancelled;
  bool held_ = false;
  std::shared_ptr<std::atomic<int64_t>> held_bytes_;  // of the pictures of all calls
  int64_t own_bytes_ = 0;
};

/// Frames of a video, while later ones are decoded.
void ChatClient::Call::encode_ahead(std::span<const prompt::VisionItem> frames) {
  const std::lock_guard lock(mutex_);
  if (stop_.stop_requested()) return;
  if (!ahead_) ahead_ = engine_.new_preparing();
  engine_.encode_ahead(*ahead_, {frames.begin(), frames.end()}, request_.request.cache_salt);
}

Result<void> ChatClient::Call::take_room(int64_t bytes) {
  const int64_t others = held_bytes_->fetch_add(bytes);
  own_bytes_ = bytes;
  if (others == 0 || bytes == 0 || others + bytes <= client_.options_.picture_bytes_max) return {};
  return make_error(ErrorCode::overloaded, "",
                    "the pictures of the requests that wait and run take {} bytes, all that they may", others);
}

Result<prompt::Prompt> ChatClient::Call::build() {
  const prompt::PromptBuilder& prompts = engine_.prompts();
  const auto& deadline = request_.request.deadline;
  media::FetchPolicy fetch = client_.options_.fetch;
  if (deadline) {
    // Rounded up: a fetch that uses all of it has used up the request's time.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now());
    fetch.timeout = std::clamp(left, std::chrono::milliseconds(1), fetch.timeout);
  }
  if (stop_.stop_requested()) return cancelled();
  Result<prompt::Prompt> prompt = Error{ErrorCode::internal, "no prompt", ""};
  if (const auto* conversation = std::get_if<prompt::Conversation>(&request_.source)) {
    const prompt::MediaAccess access{
        .policy = fetch,
        .limits = client_.options_.limits,
        .pictures_max = client_.options_.pictures_max,
        .videos_max = client_.options_.videos_max,
        .list_frames_max = client_.options_.list_frames_max,
        .tokens_max = engine_.context_max(),
        .decoder = &client_.decoder_,
        .clip_bytes_max = client_.options_.video.limits.bytes_max,
        .adaptive_budget = client_.options_.adaptive_video_budget,
        .video_cache = &client_.videos_,
        .cache_salt = request_.request.cache_salt,
        .stop = stop_.get_token(),
        .progress =
            [this](std::string_view part, int64_t done, int64_t total) {
              const std::lock_guard lock(order_);
              listener_->on_progress(part, done, total);
            },
        .ready = [this](std::span<const prompt::VisionItem> frames) { encode_ahead(frames); }};
    prompt = prompts.build(*conversation, access);
  } else if (const auto* plain = std::get_if<prompt::PlainPrompt>(&request_.source)) {
    prompt = prompts.build(*plain);
  } else {
    prompt = prompts.from_tokens(std::move(std::get<std::vector<int32_t>>(request_.source)));
  }
  if (stop_.stop_requested()) return cancelled();
  if (deadline && Clock::now() >= *deadline) return Error{ErrorCode::deadline, "the request's time is over", ""};
  return prompt;
}

void ChatClient::Call::submit(prompt::Prompt built) {
  auto prompt = std::make_shared<const prompt::Prompt>(std::move(built));
  replies_.resize(static_cast<size_t>(std::max(1, request_.request.replies)));
  if (request_.separate_reasoning && prompt->is_chat) {
    for (Split& reply : replies_) {
      reply.parser.emplace(prompt::reply_format(client_.reply_style_, prompt->ending));
      prompt::ReplyPieces said_before;
      reply.parser->push(prompt->continued, said_before);
    }
  }
  request_.request.prompt = prompt;
  const auto self = shared_from_this();
  const auto on_token = [self](TokenEvent&& event) {
    const std::lock_guard lock(self->order_);
    self->listener_->on_event(self->split(std::move(event)));
  };
  const auto on_progress = [self](std::string_view part, int64_t done, int64_t total) {
    const std::lock_guard lock(self->order_);
    self->listener_->on_progress(part, done, total);
  };
  // The engine may have a token before submit() has returned: on_prompt still comes first.
  const std::lock_guard in_order(order_);
  auto id = engine_.submit(std::move(request_.request), on_token, on_progress);
  if (!id) return listener_->on_error(Error(id.error()));
  listener_->on_prompt(prompt);
  const std::lock_guard lock(mutex_);
  id_ = *id;
  if (held_) engine_.hold(*id_, true);
  if (stop_.stop_requested()) engine_.abort(*id_, reason_);
}

ChatEvent ChatClient::Call::split(TokenEvent&& event) {
  Split& reply = replies_[static_cast<size_t>(event.reply)];
  ChatEvent out{.reply = event.reply, .token = std::move(event.sampled)};
  out.is_first = !std::exchange(reply.started, true);
  out.cached_tokens = event.cached_tokens;
  out.finish = event.finish;
  out.stop_string = std::move(event.stop_string);
  out.stop_token = event.stop_token;
  out.timings = event.timings;
  if (!reply.parser) {
    out.content = std::move(event.text);
    return out;
  }
  prompt::ReplyPieces pieces;
  reply.parser->push(event.text, pieces);
  if (event.finish) reply.parser->finish(pieces);
  out.reasoning = std::move(pieces.reasoning);
  out.content = std::move(pieces.content);
  return out;
}

ChatClient::ChatClient(Engine& engine, const ChatClientOptions& options)
    : engine_(engine),
      options_(options),
      reply_style_(style_of(engine.config())),
      decoder_(options.video),
      videos_(options.video_cache_bytes),
      pool_(options.preparing_threads, "keye-prepare"),
      text_pool_(options.text_threads, "keye-text") {}

ChatClient::~ChatClient() { stopping_.request_stop(); }

void ChatClient::flush_cache() {
  videos_.clear();
  engine_.flush_cache();
}

Result<std::shared_ptr<ChatCall>> ChatClient::start(ChatRequest request, std::shared_ptr<ChatListener> listener) {
  if (preparing_.load() >= options_.preparing_max) {
    return make_error(ErrorCode::overloaded, "", "{} requests are being prepared", options_.preparing_max);
  }
  ++preparing_;
  const auto call = std::make_shared<Call>(*this, std::move(request), std::move(listener));
  TaskPool& pool = has_pictures(call->source()) ? pool_ : text_pool_;
  pool.post([call, stop = stopping_.get_token()] { call->prepare(stop); });
  return std::shared_ptr<ChatCall>(call);
}

}  // namespace keye::engine
