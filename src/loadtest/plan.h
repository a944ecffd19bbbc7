// Which request is sent when: the same for the same seed, on every machine.
#pragma once

#include <cstdint>
#include <optional>

#include "loadtest/config.h"

namespace keye::loadtest {

/// A stream of random bits that depends on nothing but its two numbers (SplitMix64, Steele et al. 2014).
class Random {
 public:
  Random(uint64_t seed, uint64_t stream);
  uint64_t next();
  /// In [0, 1), with 53 bits.
  double uniform();

 private:
  uint64_t state_;
};

/// One request that is due.
struct Planned {
  int64_t index = 0;
  double at_s = 0;  // since the start; latencies count from here
  int image = -1;   // of the configuration's pictures, or none
};

/// Hands out the requests of a test one by one.
class Plan {
 public:
  explicit Plan(const Config& config);

  /// The next request: in an open loop due at its scheduled time, which may have passed or be to come; in a closed loop
  /// at `now_s`. Nothing once all are handed out or the next one would be due after the configured duration.
  std::optional<Planned> next(double now_s);

 private:
  int image_of(int64_t index) const;

  bool open_loop_ = false;
  bool poisson_ = false;
  double rate_ = 0;
  int64_t requests_ = 0;
  double duration_s_ = 0;
  uint64_t seed_ = 0;
  int images_ = 0;
  double image_share_ = 0;
  Random gaps_;
  int64_t index_ = 0;
  double due_s_ = 0;
};

/// How many words make a prompt of `tokens` tokens, from what a server counted for two prompts of different length;
/// at least one. A count below 1, or one that did not grow, says nothing: then it is a word a token.
struct Counted {
  int64_t words = 0;
  int64_t tokens = 0;
};
int64_t words_for_tokens(Counted shorter, Counted longer, int64_t tokens);

}  // namespace keye::loadtest
