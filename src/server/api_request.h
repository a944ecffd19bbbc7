// The bodies of requests to what the model is asked, and to how the response should look.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat_client.h"

namespace keye::server {

/// What requests are read against.
struct RequestRules {
  std::vector<std::string> served_names;  // of the model; the first is its name in responses
  model::GenerationDefaults generation;
  int64_t context_max = 0;
  std::chrono::milliseconds timeout{0};  // of requests that name none; 0: none
  std::string tenant;                    // whoever has the same shares what was computed, and may abort it
};

enum class ReplyApi : uint8_t { chat, completion, generate };

/// How a response looks.
struct ReplyShape {
  ReplyApi api = ReplyApi::chat;
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // the usage so far in every chunk
  int logprobs = -1;              // -1: none, else so many alternatives
  bool return_token_ids = false;
  bool is_batch = false;       // generate: a list was asked for, so a list comes back
  bool logprob_texts = false;  // generate: log-probabilities name their tokens
  std::string model;
  std::string rid;  // the client's own id; empty: one is made
  std::string tenant;
};

/// A request may hold several prompts (completions), each with its own replies.
struct ApiRequest {
  std::vector<engine::ChatRequest> chats;
  ReplyShape shape;
};

/// Errors: invalid_argument, unsupported, too_large, not_found (the model), `where` naming the field.
Result<ApiRequest> read_chat_request(std::string_view body, const RequestRules& rules);
Result<ApiRequest> read_completion_request(std::string_view body, const RequestRules& rules);
/// SGLang's native request.
Result<ApiRequest> read_generate_request(std::string_view body, const RequestRules& rules);

}  // namespace keye::server
