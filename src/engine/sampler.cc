#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace keye::engine {
namespace {

/// The finalizer of SplitMix64: every output bit depends on every input bit.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

bool is_neutral(const SamplingParams& params) {
  return params.logit_bias.empty() && params.repetition_penalty == 1.0F && params.presence_penalty == 0.0F &&
         params.frequency_penalty == 0.0F;
}

void apply_penalties(std::span<float> logits, const SamplingParams& params, const TokenHistory& history) {
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  for (const auto& [token, count] : history.counts()) {
    float& logit = logits[static_cast<size_t>(token)];
    if (params.repetition_penalty != 1.0F) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (count.reply > 0) {
      logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count.reply);
    }
  }
}

/// Index of the largest value, the first among equals; NaN never wins.
int32_t argmax(std::span<const float> values) {
  // Lanes of running maxima: a comparison with NaN is false, so NaN is passed over; the compiler makes vectors of them.
  constexpr size_t kLanes = 64;
  float highest[kLanes];
  std::fill_n(highest, kLanes, -INFINITY);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      highest[lane] = value > highest[lane] ? value : highest[lane];
    }
  }
  float best = *std::max_element(highest, highest + kLanes);
  for (; i < values.size(); ++i) best = values[i] > best ? values[i] : best;
  const auto found = std::find(values.begin(), values.end(), best);
  return found == values.end() ? 0 : static_cast<int32_t>(found - values.begin());
}

float log_probability(std::span<const float> logits, int32_t token) {
  float highest = -INFINITY;
  for (float logit : logits) highest = std::max(highest, logit);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - highest));
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)] - highest) - std::log(sum));
}

}  // namespace

Result<void> check_sampling(const SamplingParams& params, int vocab) {
  auto in_range = [](const char* field, double value, double low, double high) -> Result<void> {
    if (value >= low && value <= high) return {};
    return make_error(ErrorCode::invalid_argument, field, "should be in [{}, {}], got {}", low, high, value);
  };
  KEYE_TRY_VOID(in_range("temperature", params.temperature, 0, 100));
  KEYE_TRY_VOID(in_range("top_k", params.top_k, 0, 1 << 30));
  KEYE_TRY_VOID(in_range("min_p", params.min_p, 0, 1));
  KEYE_TRY_VOID(in_range("presence_penalty", params.presence_penalty, -2, 2));
  KEYE_TRY_VOID(in_range("frequency_penalty", params.frequency_penalty, -2, 2));
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return make_error(ErrorCode::invalid_argument, "top_p", "should be in (0, 1], got {}", params.top_p);
  }
  if (!(params.repetition_penalty > 0 && params.repetition_penalty <= 100)) {
    return make_error(ErrorCode::invalid_argument, "repetition_penalty", "should be in (0, 100], got {}",
                      params.repetition_penalty);
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < 0 || token >= vocab) {
      return make_error(ErrorCode::invalid_argument, "logit_bias", "token {} is not in [0, {})", token, vocab);
    }
    KEYE_TRY_VOID(in_range("logit_bias", bias, -100, 100));
  }
  return {};
}

void TokenHistory::add_prompt(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) counts_[token].prompt = true;
}

void TokenHistory::add_reply(int32_t token) { ++counts_[token].reply; }

double counter_uniform(uint64_t seed, uint64_t counter) {
  // Two rounds, so that neither nearby seeds nor nearby counters give related numbers.
  const uint64_t bits =
      mix(mix(seed + 0x9e3779b97f4a7c15ULL) ^ (counter * 0xd1342543de82ef95ULL + 0x2545f4914f6cdd1dULL));
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

Sampler::Sampler(int vocab) : adjusted_(static_cast<size_t>(vocab)) { candidates_.reserve(static_cast<size_t>(vocab)); }

Sampled Sampler::sample(std::span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                        int64_t position) {
  KEYE_CHECK(logits.size() == adjusted_.size(), "{} logits for a vocabulary of {}", logits.size(), adjusted_.size());
  std::span<const float> scores = logits;
  if (!is_neutral(params)) {
    std::copy(logits.begin(), logits.end(), adjusted_.begin());
    apply_penalties(adjusted_, params, history);
    scores = adjusted_;
  }
  const bool greedy = params.temperature == 0 || params.top_k == 1;
  const int32_t token = greedy ? argmax(scores) : draw(scores, params, position);
  return {token, params.logprobs ? log_probability(logits, token) : 0.0F};
}

/// Brings the `count` best candidates to the front, in order.
void Sampler::sort_candidates(size_t count) {
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  const auto middle = candidates_.begin() + static_cast<std::ptrdiff_t>(std::min(count, candidates_.size()));
  if (middle != candidates_.end()) std::nth_element(candidates_.begin(), middle, candidates_.end(), better);
  std::sort(candidates_.begin(), middle, better);
}

int32_t Sampler::draw(std::span<const float> scores, const SamplingParams& params, int64_t position) {
  // Weights are probabilities relative to the best token's.
  const double highest = scores[static_cast<size_t>(argmax(scores))];
  const double inverse = 1.0 / static_cast<double>(params.temperature);
  candidates_.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    const double weight = scores[i] == highest ? 1.0 : std::exp((static_cast<double>(scores[i]) - highest) * inverse);
    if (weight > 0) candidates_.push_back({weight, static_cast<int32_t>(i)});
  }
  if (candidates_.empty()) return 0;  // nothing but NaN
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates_.size()) {
    sort_candidates(static_cast<size_t>(params.top_k));
    candidates_.resize(static_cast<size_t>(params.top_k));
  }
  const bool cuts = params.top_p < 1 || params.min_p > 0;
  double kept = 0;
  for (const Candidate& candidate : candidates_) kept += candidate.weight;
  size_t count = candidates_.size();
  if (cuts) {
    // Only the head of the ranking is needed: sort as much as it takes to reach top_p.
    const double wanted = static_cast<double>(params.top_p) * kept;
    size_t sorted = 0;
    kept = 0;
    for (count = 0; count < candidates_.size(); ++count) {
      if (count == sorted) {
        sorted = std::max<size_t>(256, sorted * 8);
        sort_candidates(sorted);
      }
      const double weight = candidates_[count].weight;
      if (count > 0 && (kept >= wanted || weight < static_cast<double>(params.min_p))) break;
      kept += weight;
    }
  }
  const double target = counter_uniform(params.seed, static_cast<uint64_t>(position)) * kept;
  double reached = 0;
  size_t chosen = 0;
  for (; chosen + 1 < count; ++chosen) {
    reached += candidates_[chosen].weight;
    if (reached > target) break;
  }
  return candidates_[chosen].token;
}

}  // namespace keye::engine
