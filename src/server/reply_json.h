// Replies as OpenAI's API and SGLang's native one write them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/chat_client.h"
#include "server/api_request.h"

namespace keye::server {

/// What is the same in all of a response.
struct ReplyHeader {
  std::string id;
  int64_t created = 0;  // seconds since 1970
  std::string model;
};

/// One choice of a response as far as it has come.
struct Choice {
  int index = 0;
  std::string reasoning;
  std::string content;
  std::vector<engine::Sampled> tokens;  // all, the one that ended it too
  std::optional<engine::FinishReason> finish;
  std::string stop_string;
  int32_t stop_token = -1;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t reasoning_tokens = 0;
  double seconds = 0;            // from the request to the end
  size_t last_token_offset = 0;  // of the newest token's text, in bytes
};

/// Of all choices of one prompt.
struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t reasoning_tokens = 0;
  Usage& operator+=(const Usage& other);
};
OrderedJson usage_json(const Usage& usage);

/// "stop", "length", "abort".
std::string_view api_finish_reason(engine::FinishReason reason);

/// Writes the JSON of one API. `tokenizer` names tokens in log-probabilities.
class ReplyWriter {
 public:
  ReplyWriter(ReplyHeader header, ReplyShape shape, const text::Tokenizer& tokenizer)
      : header_(std::move(header)), shape_(std::move(shape)), tokenizer_(tokenizer) {}

  const ReplyHeader& header() const { return header_; }
  const ReplyShape& shape() const { return shape_; }

  /// Adds what happened to what has come.
  void add(Choice& choice, const engine::ChatEvent& event) const;
  /// A whole response. `prompts` is one list of ids for each prompt, for return_token_ids.
  std::string whole(const std::vector<Choice>& choices, const Usage& usage,
                    const std::vector<std::vector<int32_t>>& prompts) const;
  /// The chunk that opens a choice; empty where it would say nothing.
  std::string opening(const Choice& choice, const std::vector<int32_t>& prompt) const;
  /// What an event adds to a choice, which already holds it. Empty if it adds nothing that is shown.
  std::string chunk(const Choice& choice, const engine::ChatEvent& event, const Usage& usage) const;
  /// The last chunk of include_usage.
  std::string usage_chunk(const Usage& usage) const;

 private:
  OrderedJson chat_logprobs(std::span<const engine::Sampled> tokens) const;
  OrderedJson completion_logprobs(std::span<const engine::Sampled> tokens, size_t text_offset) const;
  OrderedJson generate_reply(const Choice& choice) const;
  OrderedJson envelope(std::string_view object) const;
  OrderedJson chat_choice(const Choice& choice) const;
  OrderedJson completion_choice(const Choice& choice) const;
  /// Tokens that are part of the text: all but the one that ended the reply.
  static std::span<const engine::Sampled> shown_tokens(const Choice& choice);
  std::string token_text(int32_t token) const;

  ReplyHeader header_;
  ReplyShape shape_;
  const text::Tokenizer& tokenizer_;
};

/// JSON as text; bytes that are not UTF-8 become U+FFFD.
std::string dump(const OrderedJson& json);
/// "data: ...\n\n".
std::string sse_data(std::string_view json);

}  // namespace keye::server
