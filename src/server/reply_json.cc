#include "server/reply_json.h"

#include <algorithm>

namespace keye::server {

using engine::Sampled;

namespace {

std::string_view object_name(ReplyApi api, bool chunk) {
  if (api == ReplyApi::completion) return "text_completion";
  return chunk ? "chat.completion.chunk" : "chat.completion";
}

OrderedJson matched_stop(const Choice& choice) {
  if (choice.stop_token >= 0) return choice.stop_token;
  if (!choice.stop_string.empty()) return choice.stop_string;
  return nullptr;
}

OrderedJson finish_json(const std::optional<engine::FinishReason>& finish) {
  if (!finish) return nullptr;
  return api_finish_reason(*finish);
}

OrderedJson token_ids(std::span<const Sampled> tokens) {
  OrderedJson ids = OrderedJson::array();
  for (const Sampled& token : tokens) ids.push_back(token.token);
  return ids;
}

}  // namespace

std::string dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

std::string sse_data(std::string_view json) { return fmt::format("data: {}\n\n", json); }

Usage& Usage::operator+=(const Usage& other) {
  prompt_tokens += other.prompt_tokens;
  completion_tokens += other.completion_tokens;
  cached_tokens += other.cached_tokens;
  reasoning_tokens += other.reasoning_tokens;
  return *this;
}

OrderedJson usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}}};
}

std::string_view api_finish_reason(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::stop:
      return "stop";
    case engine::FinishReason::length:
      return "length";
    default:
      return "abort";
  }
}

std::span<const Sampled> ReplyWriter::shown_tokens(const Choice& choice) {
  const std::span<const Sampled> all(choice.tokens);
  return choice.stop_token >= 0 && !all.empty() ? all.first(all.size() - 1) : all;
}

std::string ReplyWriter::token_text(int32_t token) const { return tokenizer_.token_bytes(token); }

OrderedJson ReplyWriter::envelope(std::string_view object) const {
  return {{"id", header_.id}, {"object", object}, {"created", header_.created}, {"model", header_.model}};
}

void ReplyWriter::add(Choice& choice, const engine::ChatEvent& event) const {
  // A stream shows each piece once; only a whole response needs all of it again, as do SGLang's chunks.
  if (!shape_.stream || shape_.api == ReplyApi::generate) {
    choice.reasoning += event.reasoning;
    choice.content += event.content;
  }
  if (event.token) {
    if (!choice.tokens.empty()) choice.last_token_offset += token_text(choice.tokens.back().token).size();
    choice.tokens.push_back(*event.token);
    choice.reasoning_tokens += !event.reasoning.empty() && event.content.empty() ? 1 : 0;
  }
  choice.cached_tokens = event.cached_tokens;
  if (!event.finish) return;
  choice.finish = event.finish;
  choice.stop_string = event.stop_string;
  choice.stop_token = event.stop_token;
}

// -- log-probabilities -------------------------------------------------------

OrderedJson ReplyWriter::chat_logprobs(std::span<const Sampled> tokens) const {
  const auto entry = [&](int32_t token, float logprob) {
    const std::string text = token_text(token);
    OrderedJson bytes = OrderedJson::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
    return OrderedJson{{"token", text}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
  };
  OrderedJson content = OrderedJson::array();
  for (const Sampled& token : tokens) {
    OrderedJson item = entry(token.token, token.logprob);
    item["top_logprobs"] = OrderedJson::array();
    for (const engine::TokenLogprob& other : token.top)
      item["top_logprobs"].push_back(entry(other.token, other.logprob));
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

OrderedJson ReplyWriter::completion_logprobs(std::span<const Sampled> tokens, size_t text_offset) const {
  OrderedJson json = {{"tokens", OrderedJson::array()},
                      {"token_logprobs", OrderedJson::array()},
                      {"top_logprobs", OrderedJson::array()},
                      {"text_offset", OrderedJson::array()}};
  for (const Sampled& token : tokens) {
    const std::string text = token_text(token.token);
    json["tokens"].push_back(text);
    json["token_logprobs"].push_back(token.logprob);
    OrderedJson top = OrderedJson::object();
    for (const engine::TokenLogprob& other : token.top) top[token_text(other.token)] = other.logprob;
    json["top_logprobs"].push_back(shape_.logprobs > 0 ? std::move(top) : OrderedJson());
    json["text_offset"].push_back(text_offset);
    text_offset += text.size();
  }
  return json;
}

// -- whole responses ---------------------------------------------------------

OrderedJson ReplyWriter::chat_choice(const Choice& choice) const {
  OrderedJson message = {{"role", "assistant"}, {"content", choice.content}};
  if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
  OrderedJson json = {{"index", choice.index}, {"message", std::move(message)}};
  json["logprobs"] = shape_.logprobs >= 0 ? chat_logprobs(shown_tokens(choice)) : OrderedJson();
  json["finish_reason"] = finish_json(choice.finish);
  json["matched_stop"] = matched_stop(choice);
  if (shape_.return_token_ids) json["token_ids"] = token_ids(choice.tokens);
  return json;
}

OrderedJson ReplyWriter::completion_choice(const Choice& choice) const {
  OrderedJson json = {{"index", choice.index}, {"text", choice.content}};
  json["logprobs"] = shape_.logprobs >= 0 ? completion_logprobs(shown_tokens(choice), 0) : OrderedJson();
  json["finish_reason"] = finish_json(choice.finish);
  json["matched_stop"] = matched_stop(choice);
  if (shape_.return_token_ids) json["token_ids"] = token_ids(choice.tokens);
  return json;
}

OrderedJson ReplyWriter::generate_reply(const Choice& choice) const {
  OrderedJson finish = nullptr;
  if (choice.finish) {
    finish = {{"type", api_finish_reason(*choice.finish)}};
    if (*choice.finish == engine::FinishReason::length) finish["length"] = choice.tokens.size();
    if (*choice.finish == engine::FinishReason::stop) finish["matched"] = matched_stop(choice);
  }
  OrderedJson meta = {{"id", header_.id},
                      {"finish_reason", std::move(finish)},
                      {"prompt_tokens", choice.prompt_tokens},
                      {"completion_tokens", choice.tokens.size()},
                      {"cached_tokens", choice.cached_tokens},
                      {"e2e_latency", choice.seconds}};
  if (shape_.logprobs >= 0) {
    const auto entry = [&](float logprob, int32_t token) {
      return OrderedJson{logprob, token, shape_.logprob_texts ? OrderedJson(token_text(token)) : OrderedJson()};
    };
    OrderedJson tokens = OrderedJson::array();
    OrderedJson top = OrderedJson::array();
    for (const Sampled& token : choice.tokens) {
      tokens.push_back(entry(token.logprob, token.token));
      OrderedJson alternatives = OrderedJson::array();
      for (const engine::TokenLogprob& other : token.top) alternatives.push_back(entry(other.logprob, other.token));
      top.push_back(std::move(alternatives));
    }
    meta["output_token_logprobs"] = std::move(tokens);
    if (shape_.logprobs > 0) meta["output_top_logprobs"] = std::move(top);
  }
  OrderedJson json = {
      {"text", choice.content}, {"output_ids", token_ids(choice.tokens)}, {"meta_info", std::move(meta)}};
  if (shape_.stream) json["index"] = choice.index;
  return json;
}

std::string ReplyWriter::whole(const std::vector<Choice>& choices, const Usage& usage,
                               const std::vector<std::vector<int32_t>>& prompts) const {
  if (shape_.api == ReplyApi::generate) {
    if (!shape_.is_batch && choices.size() == 1) return dump(generate_reply(choices[0]));
    OrderedJson list = OrderedJson::array();
    for (const Choice& choice : choices) list.push_back(generate_reply(choice));
    return dump(list);
  }
  OrderedJson json = envelope(object_name(shape_.api, false));
  json["choices"] = OrderedJson::array();
  for (const Choice& choice : choices) {
    json["choices"].push_back(shape_.api == ReplyApi::chat ? chat_choice(choice) : completion_choice(choice));
  }
  if (shape_.return_token_ids) {
    if (shape_.api == ReplyApi::chat) {
      json["prompt_token_ids"] = prompts[0];
    } else {
      const size_t each = choices.size() / prompts.size();
      for (size_t i = 0; i < choices.size(); ++i) json["choices"][i]["prompt_token_ids"] = prompts[i / each];
    }
  }
  json["usage"] = usage_json(usage);
  return dump(json);
}

// -- streams -----------------------------------------------------------------

std::string ReplyWriter::opening(const Choice& choice, const std::vector<int32_t>& prompt) const {
  const bool is_chat = shape_.api == ReplyApi::chat;
  if (!is_chat && (shape_.api == ReplyApi::generate || !shape_.return_token_ids)) return {};
  OrderedJson json = envelope(object_name(shape_.api, true));
  OrderedJson part = {{"index", choice.index}};
  if (is_chat) {
    part["delta"] = {{"role", "assistant"}, {"content", ""}};
  } else {
    part["text"] = "";
    part["prompt_token_ids"] = prompt;
  }
  part["logprobs"] = nullptr;
  part["finish_reason"] = nullptr;
  json["choices"] = OrderedJson::array({std::move(part)});
  if (is_chat && shape_.return_token_ids) json["prompt_token_ids"] = prompt;
  if (shape_.include_usage) json["usage"] = nullptr;
  return dump(json);
}

std::string ReplyWriter::chunk(const Choice& choice, const engine::ChatEvent& event, const Usage& usage) const {
  if (shape_.api == ReplyApi::generate) return dump(generate_reply(choice));
  const bool shows_tokens = shape_.logprobs >= 0 || shape_.return_token_ids;
  const bool has_text = !event.reasoning.empty() || !event.content.empty();
  if (!has_text && !event.finish && !(shows_tokens && event.token)) return {};
  OrderedJson part = {{"index", choice.index}};
  if (shape_.api == ReplyApi::chat) {
    OrderedJson delta = OrderedJson::object();
    if (!event.reasoning.empty()) delta["reasoning_content"] = event.reasoning;
    if (!event.content.empty()) delta["content"] = event.content;
    part["delta"] = std::move(delta);
  } else {
    part["text"] = event.content;
  }
  part["logprobs"] = nullptr;
  const bool is_shown = event.token && !(event.stop_token >= 0);
  if (shape_.logprobs >= 0 && is_shown) {
    const std::span<const Sampled> token(&*event.token, 1);
    part["logprobs"] =
        shape_.api == ReplyApi::chat ? chat_logprobs(token) : completion_logprobs(token, choice.last_token_offset);
  }
  part["finish_reason"] = finish_json(event.finish);
  if (event.finish) part["matched_stop"] = matched_stop(choice);
  if (shape_.return_token_ids) {
    part["token_ids"] = event.token ? OrderedJson::array({event.token->token}) : OrderedJson::array();
  }
  OrderedJson json = envelope(object_name(shape_.api, true));
  json["choices"] = OrderedJson::array({std::move(part)});
  if (shape_.continuous_usage) {
    json["usage"] = usage_json(usage);
  } else if (shape_.include_usage) {
    json["usage"] = nullptr;
  }
  return dump(json);
}

std::string ReplyWriter::usage_chunk(const Usage& usage) const {
  OrderedJson json = envelope(object_name(shape_.api, true));
  json["choices"] = OrderedJson::array();
  json["usage"] = usage_json(usage);
  return dump(json);
}

}  // namespace keye::server
