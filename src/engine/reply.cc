#include "engine/reply.h"

#include <algorithm>
#include <utility>

namespace keye::engine {

Reply::Reply(std::shared_ptr<const Request> request, int index, const text::Tokenizer& tokenizer)
    : request_(std::move(request)),
      index_(index),
      sampling_(request_->sampling),
      detokenizer_(tokenizer, request_->skip_special_tokens),
      stops_(request_->stop.strings) {
  sampling_.seed += static_cast<uint64_t>(index);
  // A long prompt takes long to count, and only one penalty looks at it.
  if (sampling_.repetition_penalty != 1.0F) history_.add_prompt(request_->prompt->tokens);
}

TokenEvent Reply::accept(Sampled sampled) {
  const int32_t token = sampled.token;
  history_.add_reply(token);
  ++tokens_;
  const StopRules& rules = request_->stop;
  const bool is_stop_token =
      !rules.ignore_eos && std::find(rules.token_ids.begin(), rules.token_ids.end(), token) != rules.token_ids.end();
  const bool is_last = is_stop_token || tokens_ >= rules.max_tokens;
  // A stop token ends the reply; its own text is no part of it.
  std::string piece = is_stop_token ? std::string() : detokenizer_.push(token);
  if (is_last) piece += detokenizer_.flush();
  TokenEvent event{.reply = index_, .token = token, .sampled = std::move(sampled)};
  event.text = stops_.push(piece);
  if (stops_.hit()) {
    event.finish = FinishReason::stop;
    event.stop_string = *stops_.hit();
  } else if (is_last) {
    event.text += stops_.flush();
    event.finish = is_stop_token ? FinishReason::stop : FinishReason::length;
    if (is_stop_token) event.stop_token = token;
  }
  return event;
}

TokenEvent Reply::end(FinishReason reason) {
  TokenEvent event{.reply = index_};
  event.text = stops_.push(detokenizer_.flush());
  event.text += stops_.flush();
  event.finish = reason;
  return event;
}

}  // namespace keye::engine
