// From outcomes to what a load test says.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "loadtest/config.h"
#include "loadtest/reply.h"
#include "loadtest/stats.h"

namespace keye::loadtest {

/// How the load generator itself did: what it adds to the latencies that it measures.
struct Generator {
  Summary lag_ms;        // of its event loop
  double cpu_share = 0;  // of one processor: its loop has only one thread

  /// Whether the figures may be the generator's own rather than the server's.
  bool was_bottleneck() const;
};

struct Report {
  Config config;  // with the model and the prompts' words filled in
  int64_t ok = 0;
  int64_t failed = 0;
  int64_t empty = 0;  // of ok: no chunk had text
  int64_t in_flight_max = 0;
  std::map<std::string, int64_t> errors;              // by kind
  std::map<std::string, std::string> error_examples;  // the first message of each kind
  bool interrupted = false;
  double duration_s = 0;  // from the start to the end of the last reply
  Generator generator;

  // Of the replies that are ok, in milliseconds.
  Summary ttft_ms;  // to the first chunk with text
  Summary itl_ms;   // between two such chunks of a reply
  Summary tpot_ms;  // of each reply: first to last chunk, over its output tokens but one
  Summary e2e_ms;   // to the end of the stream

  int64_t chunks = 0;
  int64_t output_tokens = 0;
  int64_t prompt_tokens = -1;  // -1: no server counted
  int64_t cached_tokens = -1;
  int64_t with_usage = 0;  // replies whose output tokens the server counted; of the others chunks are counted

  double per_second(int64_t count) const { return duration_s > 0 ? static_cast<double>(count) / duration_s : 0; }
};

/// Gathers outcomes as they come.
class Tally {
 public:
  void add(const Outcome& outcome);
  int64_t ok() const { return counts_.ok; }
  int64_t failed() const { return counts_.failed; }
  /// Everything so far. The caller fills in what outcomes do not tell: config, duration, generator,
  /// in_flight_max, interrupted.
  Report report() const;

 private:
  void add_tokens(const Outcome& outcome);

  Report counts_;
  std::vector<float> ttft_ms_, itl_ms_, tpot_ms_, e2e_ms_;
};

OrderedJson to_json(const Report& report);
/// Several lines for a terminal.
std::string to_table(const Report& report);

}  // namespace keye::loadtest
