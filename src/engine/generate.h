// From a prompt to its replies, token by token: the loop behind the command line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/page_pool.h"
#include "engine/prefill.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "prompt/prompt.h"
#include "text/tokenizer.h"

namespace keye::engine {

struct StopRules {
  int max_tokens = 1024;             // of the reply
  std::vector<std::string> strings;  // end the reply, and are not part of it
  std::vector<int32_t> token_ids;    // the checkpoint's end-of-sequence ids and the request's own
  bool ignore_eos = false;           // token_ids do not end the reply
};

struct Request {
  prompt::Prompt prompt;
  SamplingParams sampling;
  StopRules stop;
  int replies = 1;  // n; reply i uses seed + i
  bool skip_special_tokens = true;
};

/// What happened to one reply in one step. The last event of a reply carries its finish reason.
struct TokenEvent {
  int reply = 0;
  int32_t token = -1;  // -1: text only
  float logprob = 0;
  std::string text;  // complete UTF-8, may be empty while a character or stop string is incomplete
  std::optional<FinishReason> finish;
};
using TokenSink = std::function<void(const TokenEvent&)>;

/// Where the time of a request went, in seconds.
struct Timings {
  double vision = 0;
  double prefill = 0;
  double decode = 0;
  int64_t prompt_tokens = 0;
  int64_t decoded_tokens = 0;  // of all replies
};

struct GenerateOptions {
  int prefill_chunk = 512;  // new tokens of one step; results do not depend on it
  Progress progress;
};

/// Runs one request to its end on a model of its own. The model, cache and tokenizer must outlive the generator.
class Generator {
 public:
  Generator(model::Model& model, model::KvCache& cache, const text::Tokenizer& tokenizer);

  /// Calls `sink` for every token. A stop request ends all replies with FinishReason::cancelled.
  /// Errors: invalid_argument (sampling fields), too_large (prompt and reply do not fit the model or the cache).
  Result<Timings> run(const Request& request, const GenerateOptions& options, const TokenSink& sink,
                      const std::stop_token& stop);

 private:
  struct Reply;

  Result<void> check(const Request& request) const;
  /// Fills pages for `tokens` tokens.
  void grow(std::vector<int32_t>& pages, int64_t tokens);
  std::vector<int32_t> fork(const std::vector<int32_t>& pages, int64_t tokens);
  void accept(Reply& reply, std::span<const float> logits, const Request& request, const TokenSink& sink);
  void cancel(Reply& reply, const TokenSink& sink);

  model::Model& model_;
  model::KvCache& cache_;
  const text::Tokenizer& tokenizer_;
  Runner runner_;
  Sampler sampler_;
  PagePool pool_;
};

}  // namespace keye::engine
