// What the engine is asked, and what it answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/stop.h"
#include "prompt/prompt.h"

namespace keye::engine {

using Clock = std::chrono::steady_clock;
using RequestId = uint64_t;

/// Replies of one request.
inline constexpr int kRepliesMax = 128;

/// When a reply ends by itself.
struct StopRules {
  int max_tokens = 1024;             // of the reply
  std::vector<std::string> strings;  // end the reply, and are not part of it
  std::vector<int32_t> token_ids;    // the checkpoint's end-of-sequence ids and the request's own
  bool ignore_eos = false;           // token_ids do not end the reply
};

/// Immutable once it is submitted.
struct Request {
  std::shared_ptr<const prompt::Prompt> prompt;
  SamplingParams sampling;
  StopRules stop;
  int replies = 1;  // n; reply i uses seed + i
  bool skip_special_tokens = true;
  int priority = 0;                           // higher ones first
  std::string cache_salt;                     // only requests with the same one share what was computed
  std::optional<Clock::time_point> deadline;  // then unfinished replies end
};

/// Where the time of a request went, in seconds.
struct Timings {
  double queued = 0;   // until its first step
  double vision = 0;   // encoding its pictures, from the first one's beginning to the last one's end
  double prefill = 0;  // from its first step to its first token, without vision
  double decode = 0;   // from its first token to its last
};

/// What happened to one reply in one step. The last event of a reply carries its finish reason.
struct TokenEvent {
  int reply = 0;
  int32_t token = -1;              // -1: text only
  std::optional<Sampled> sampled;  // with log-probabilities, if they were asked for
  std::string text;                // complete UTF-8; empty while a character or stop string is incomplete
  int64_t cached_tokens = 0;       // of the prompt, that did not have to be computed
  std::optional<FinishReason> finish;
  std::string stop_string;  // that ended the reply
  int32_t stop_token = -1;  // that ended the reply
  Timings timings;          // with the finish
};
/// Called on the engine's thread, so it must not wait. Not called any more after the last reply's finish.
using TokenSink = std::function<void(TokenEvent&&)>;

/// done and total of a long part, by name ("vision", "prefill").
using Progress = std::function<void(std::string_view part, int64_t done, int64_t total)>;

}  // namespace keye::engine
