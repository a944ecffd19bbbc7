// From a row of logits to a token: a pure function of the row, the parameters, what has been said, and (seed,
// position).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"

namespace keye::engine {

struct SamplingParams {
  float temperature = 1.0F;         // 0: greedy
  int top_k = 0;                    // 0: all
  float top_p = 1.0F;               // (0, 1]
  float min_p = 0.0F;               // [0, 1]: drops tokens below this share of the best one's probability
  float repetition_penalty = 1.0F;  // > 0; applies to prompt and reply
  float presence_penalty = 0.0F;    // [-2, 2]; applies to the reply
  float frequency_penalty = 0.0F;   // [-2, 2]; times the count in the reply
  std::vector<std::pair<int32_t, float>> logit_bias;  // [-100, 100] added to a token's logit
  uint64_t seed = 0;
  int logprobs = -1;  // -1: none; otherwise Sampled::logprob and so many alternatives
};
inline constexpr int kLogprobsMax = 20;

/// Errors: invalid_argument naming the field, its range and the value.
Result<void> check_sampling(const SamplingParams& params, int vocab);

/// Which tokens stand in the prompt and the reply so far, as the penalties need them.
class TokenHistory {
 public:
  void add_prompt(std::span<const int32_t> tokens);
  void add_reply(int32_t token);

  struct Count {
    int reply = 0;
    bool prompt = false;
  };
  const std::unordered_map<int32_t, Count>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, Count> counts_;
};

/// A token and the natural logarithm of its probability in the unmodified distribution.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct Sampled {
  int32_t token = 0;
  float logprob = 0;              // of the token, if log-probabilities were asked for
  std::vector<TokenLogprob> top;  // the likeliest tokens, as many as were asked for, best first
};

/// A sampler's scratch, reused from token to token. One thread at a time.
class Sampler {
 public:
  explicit Sampler(int vocab);

  /// `logits` [vocab] f32, unchanged. `position` is the index of the new token in its sequence: together with the seed
  /// it fixes the random number. Order: bias, penalties, temperature, top-k, top-p, min-p. Equal logits go to the lower
  /// id.
  Sampled sample(std::span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                 int64_t position);

 private:
  struct Candidate {
    float score;
    int32_t token;
  };
  int32_t draw(std::span<const float> scores, const SamplingParams& params, int64_t position);
  int32_t draw_from_all(std::span<const float> scores, const SamplingParams& params, float highest, double chance);
  void find_best(std::span<const float> scores, size_t count);
  void add_logprobs(std::span<const float> logits, int alternatives, Sampled& sampled);

  std::vector<float> adjusted_;
  std::vector<float> peaks_;           // the largest value of each block
  std::vector<Candidate> candidates_;  // the best so far, in order
  std::vector<double> sums_;
};

/// Uniform in [0, 1) from (seed, counter) alone: a counter-based generator.
double counter_uniform(uint64_t seed, uint64_t counter);

}  // namespace keye::engine
