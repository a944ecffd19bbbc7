// One streamed reply: bytes and their times in, what was measured out. Knows no clock and no network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "loadtest/sse.h"

namespace keye::loadtest {

/// Why a request failed. Kinds: "http_429" and so on, "connect", "timeout", "disconnected" (the connection or the
/// stream ended before the reply did), "malformed_stream", "server_error" (an error object within the stream).
struct Failure {
  std::string kind;
  std::string message;
};

/// What the server counted; -1 where it says nothing.
struct Usage {
  int64_t prompt_tokens = -1;
  int64_t completion_tokens = -1;
  int64_t cached_tokens = -1;
};

/// One chunk of a chat or text completion.
struct Chunk {
  bool has_text = false;  // of the answer, the reasoning or a tool call; "" is none
  bool finished = false;  // has a finish reason
  std::optional<Usage> usage;
  std::string error;  // the message of an error object
};

/// Reads the JSON of a chunk. Fields that are missing or of another type count as absent. Errors: corrupt_data (not a
/// JSON object).
Result<Chunk> read_chunk(std::string_view json);

/// The name of the first model of a GET /models response, or nothing.
std::string first_model(std::string_view json);

/// What one request measured. Times are in seconds since the start that the request counts from, or -1.
struct Outcome {
  std::optional<Failure> failure;
  double first_s = -1;         // the first chunk with text
  double last_s = -1;          // the last one
  double end_s = -1;           // the end of the stream
  int64_t chunks = 0;          // with text
  std::vector<float> gaps_ms;  // between chunks with text
  Usage usage;

  int64_t output_tokens() const { return usage.completion_tokens >= 0 ? usage.completion_tokens : chunks; }
};

class Reply {
 public:
  explicit Reply(double start_s) : start_s_(start_s) {}

  /// Takes bytes of an event stream that arrived at now_s. Chunks that arrive together have the same time.
  void push(std::string_view bytes, double now_s);
  /// The server has nothing more to say. A stream that ended without [DONE] is whole only if it had a finish reason.
  void end(double now_s);
  void fail(Failure failure);

  /// [DONE] was seen or the request failed: what may follow does not count.
  bool is_over() const { return over_; }
  bool has_failed() const { return outcome_.failure.has_value(); }
  Outcome take() { return std::move(outcome_); }

 private:
  void take_event(std::string_view data, double now_s);

  double start_s_;
  SseParser parser_;
  Outcome outcome_;
  bool finished_ = false;
  bool over_ = false;
};

}  // namespace keye::loadtest
