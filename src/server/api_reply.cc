#include "server/api_reply.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/hash.h"
#include "server/http_parser.h"

namespace keye::server {

using engine::ChatEvent;
using engine::FinishReason;

namespace {

/// Above it a slow reader's replies stand still, until it has read all.
constexpr size_t kBacklogBytes = 128 << 10;

std::string new_id(ReplyApi api) {
  std::string id = api == ReplyApi::chat ? "chatcmpl-" : (api == ReplyApi::completion ? "cmpl-" : "");
  for (const uint8_t byte : random_bytes()) id += fmt::format("{:02x}", byte);
  return id;
}

ReplyHeader header_of(const ReplyShape& shape) {
  return {.id = shape.rid.empty() ? new_id(shape.api) : shape.rid,
          .created = static_cast<int64_t>(std::time(nullptr)),
          .model = shape.model};
}

double seconds_since(engine::Clock::time_point start) {
  return std::chrono::duration<double>(engine::Clock::now() - start).count();
}

/// Reasons that are no reply's own end.
std::optional<Error> error_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::deadline:
      return Error{ErrorCode::deadline, "the request's time is over", ""};
    case FinishReason::shutdown:
      return Error{ErrorCode::unavailable, "the server is shutting down", ""};
    case FinishReason::failed:
      return Error{ErrorCode::internal, "the machine has not enough memory for this request", ""};
    case FinishReason::lost:
      return Error{ErrorCode::unavailable, "a part of the model is lost; the server is ending", ""};
    default:
      return std::nullopt;
  }
}

int status_of(const Error& error) {
  // With a place, it is something in the request: a picture that does not come is the request's fault, too.
  const bool in_request = !error.where.empty();
  switch (error.code) {
    case ErrorCode::overloaded:
      return 429;
    case ErrorCode::unavailable:
      return in_request ? 400 : 503;
    case ErrorCode::deadline:
      return in_request ? 400 : 504;
    case ErrorCode::not_found:
      return error.where == "model" ? 404 : 400;
    case ErrorCode::cancelled:
      return 499;
    case ErrorCode::internal:
      return 500;
    default:
      return 400;
  }
}

std::string_view code_of(const Error& error) {
  if (error.code == ErrorCode::too_large && error.where == "prompt") return "context_length_exceeded";
  if (error.code == ErrorCode::not_found && error.where == "model") return "model_not_found";
  return error_code_name(error.code);
}

}  // namespace

HttpResponse error_response(const Error& error) {
  const int status = status_of(error);
  HttpResponse response = error_response(status, error.to_string(), {}, error.where, code_of(error));
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

bool OpenReplies::abort(const std::string& tenant, const std::string& id) {
  const auto found = replies_.find({tenant, id});
  if (found == replies_.end()) return false;
  const auto reply = found->second.lock();
  if (reply) reply->abort();
  return reply != nullptr;
}

int OpenReplies::abort_all() {
  int count = 0;
  for (const auto& [name, weak] : replies_) {
    if (const auto reply = weak.lock()) {
      reply->abort();
      ++count;
    }
  }
  return count;
}

/// Brings what the client and the engine tell over to the server's thread.
class ApiReply::Listener final : public engine::ChatListener {
 public:
  Listener(std::shared_ptr<ApiReply> reply, size_t index)
      : exchange_(reply->exchange_), reply_(std::move(reply)), index_(index) {}

  void on_prompt(std::shared_ptr<const prompt::Prompt> prompt) override {
    exchange_->post([reply = reply_, index = index_, prompt = std::move(prompt)] { reply->on_prompt(index, prompt); });
  }
  void on_event(ChatEvent&& event) override {
    exchange_->post([reply = reply_, index = index_, event = std::move(event)] { reply->on_event(index, event); });
  }
  void on_progress(std::string_view part, int64_t done, int64_t total) override {
    if (!reply_->request_.shape.stream) return;
    exchange_->post([reply = reply_, part = std::string(part), done, total] { reply->on_progress(part, done, total); });
  }
  void on_error(Error&& error) override {
    exchange_->post([reply = reply_, error = std::move(error)] { reply->fail(error); });
  }

 private:
  std::shared_ptr<Exchange> exchange_;
  std::shared_ptr<ApiReply> reply_;
  size_t index_;
};

ApiReply::ApiReply(const ReplyContext& context, std::shared_ptr<Exchange> exchange, ApiRequest request)
    : context_(context),
      exchange_(std::move(exchange)),
      request_(std::move(request)),
      writer_(header_of(request_.shape), request_.shape, context.chats.engine().prompts().tokenizer()),
      arrived_(engine::Clock::now()) {}

void ApiReply::start() {
  if (!context_.open.add(request_.shape.tenant, writer_.header().id, shared_from_this())) {
    over_ = true;
    exchange_->respond(error_response(Error{ErrorCode::invalid_argument, "is in use by another request", "rid"}));
    return;
  }
  replies_each_ = static_cast<size_t>(request_.chats[0].request.replies);
  const size_t prompts = request_.chats.size();
  prompts_.resize(prompts);
  choices_.resize(prompts * replies_each_);
  for (size_t i = 0; i < choices_.size(); ++i) choices_[i].index = static_cast<int>(i);
  last_event_.assign(choices_.size(), arrived_);
  open_choices_ = choices_.size();
  exchange_->on_close([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->close();
  });
  exchange_->on_drain([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->hold_back();
  });
  for (size_t i = 0; i < prompts && !over_; ++i) {
    auto call = context_.chats.start(std::move(request_.chats[i]), std::make_shared<Listener>(shared_from_this(), i));
    if (!call) return fail(call.error());
    calls_.push_back(std::move(call).value());
  }
}

void ApiReply::abort() {
  for (const auto& call : calls_) call->abort(FinishReason::cancelled);
}

void ApiReply::on_prompt(size_t index, std::shared_ptr<const prompt::Prompt> prompt) {
  if (over_) return;
  for (size_t i = 0; i < replies_each_; ++i) {
    choices_[index * replies_each_ + i].prompt_tokens = static_cast<int64_t>(prompt->tokens.size());
  }
  if (!prompt->vision.empty()) context_.metrics.observe_media(seconds_since(arrived_));
  prompts_[index] = std::move(prompt);
  if (std::all_of(prompts_.begin(), prompts_.end(), [](const auto& ready) { return ready != nullptr; }))
    exchange_->body_done();
  if (!request_.shape.stream) return;
  open_stream();
}

/// Whoever waits long for a first token hears how far it is, as comments that clients skip. A stream that has begun for
/// that can only end with an error event, so it begins late.
void ApiReply::on_progress(const std::string& part, int64_t done, int64_t total) {
  constexpr std::chrono::seconds kInterval{1};
  const auto now = engine::Clock::now();
  if (over_ || now - std::max(last_progress_, arrived_) < kInterval) return;
  last_progress_ = now;
  open_stream();
  exchange_->write(fmt::format(": {} {} of {}\n\n", part, done, total));
}

void ApiReply::open_stream() {
  if (std::exchange(streaming_, true)) return;
  exchange_->begin_stream(200,
                          {{"Content-Type", "text/event-stream; charset=utf-8"},
                           {"Cache-Control", "no-cache"},
                           {"X-Accel-Buffering", "no"}},
                          ": ping\n\n");
}

void ApiReply::on_event(size_t index, ChatEvent event) {
  if (over_) return;
  Choice& choice = choices_[index * replies_each_ + static_cast<size_t>(event.reply)];
  writer_.add(choice, event);
  count(event, choice);
  if (event.finish) {
    if (const auto error = error_of(*event.finish)) return fail(*error);
    --open_choices_;
  }
  if (request_.shape.stream) {
    if (event.is_first) {
      const std::string opening = writer_.opening(choice, prompts_[index]->tokens);
      if (!opening.empty()) exchange_->write(sse_data(opening));
    }
    const Usage so_far = request_.shape.continuous_usage ? usage() : Usage{};
    const std::string chunk = writer_.chunk(choice, event, so_far);
    if (!chunk.empty()) exchange_->write(sse_data(chunk));
    hold_back();
  }
  if (open_choices_ == 0) complete();
}

void ApiReply::complete() {
  end();
  const Usage total = usage();
  if (request_.shape.stream) {
    if (request_.shape.include_usage) exchange_->write(sse_data(writer_.usage_chunk(total)));
    exchange_->write("data: [DONE]\n\n");
    exchange_->end_stream();
    return;
  }
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& prompt : prompts_) {
    prompts.push_back(request_.shape.return_token_ids ? prompt->tokens : std::vector<int32_t>());
  }
  exchange_->respond({.status = 200,
                      .headers = {{"Content-Type", "application/json"}},
                      .body = writer_.whole(choices_, total, prompts)});
}

void ApiReply::fail(const Error& error) {
  if (over_) return;
  abort();
  end();
  const HttpResponse response = error_response(error);
  context_.metrics.count_error(error_code_name(error.code));
  if (!streaming_) return exchange_->respond(response);
  exchange_->write(sse_data(response.body));
  exchange_->write("data: [DONE]\n\n");
  exchange_->end_stream();
}

/// The client is gone.
void ApiReply::close() {
  if (over_) return;
  context_.metrics.count_error("disconnected");
  abort();
  end();
}

void ApiReply::end() {
  over_ = true;
  context_.open.remove(request_.shape.tenant, writer_.header().id);
  calls_.clear();  // they know this reply, too: each would keep the other
}

/// A reader that does not keep up stops its replies, so that nothing piles up for it.
void ApiReply::hold_back() {
  if (over_) return;
  const size_t backlog = exchange_->backlog();
  const bool wanted = held_ ? backlog > 0 : backlog > kBacklogBytes;
  if (wanted == held_) return;
  held_ = wanted;
  for (const auto& call : calls_) call->hold(held_);
}

Usage ApiReply::usage() const {
  Usage total;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    total.completion_tokens += static_cast<int64_t>(choice.tokens.size());
    total.reasoning_tokens += choice.reasoning_tokens;
    if (i % replies_each_ != 0) continue;  // replies of one prompt share it
    total.prompt_tokens += choice.prompt_tokens;
    total.cached_tokens += choice.cached_tokens;
  }
  return total;
}

void ApiReply::count(const ChatEvent& event, Choice& choice) {
  Metrics& metrics = context_.metrics;
  engine::Clock::time_point& last = last_event_[static_cast<size_t>(choice.index)];
  const engine::Clock::time_point now = engine::Clock::now();
  if (event.is_first && event.token) {
    metrics.observe_first_token(seconds_since(arrived_));
  } else if (event.token) {
    metrics.observe_next_token(std::chrono::duration<double>(now - last).count());
  }
  last = now;
  if (!event.finish) return;
  choice.seconds = seconds_since(arrived_);
  metrics.observe_reply({.seconds = choice.seconds,
                         .queued = event.timings.queued,
                         .vision = event.timings.vision,
                         .prompt_tokens = choice.prompt_tokens,
                         .cached_tokens = choice.cached_tokens,
                         .tokens = static_cast<int64_t>(choice.tokens.size()),
                         .finish = engine::finish_reason_name(*event.finish)});
}

}  // namespace keye::server
