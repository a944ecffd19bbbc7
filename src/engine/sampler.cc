#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

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

constexpr size_t kLanes = 64;

/// The largest value; NaN never wins, so -infinity where there is nothing else.
float largest(std::span<const float> values) {
  // Lanes of running maxima: a comparison with NaN is false, so NaN is passed over; the compiler makes vectors of them.
  float highest[kLanes];
  std::fill_n(highest, kLanes, -INFINITY);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      highest[lane] = value > highest[lane] ? value : highest[lane];
    }
  }
  float best = -INFINITY;
  for (const float value : highest) best = value > best ? value : best;
  for (; i < values.size(); ++i) best = values[i] > best ? values[i] : best;
  return best;
}

/// Index of the largest value, the first among equals.
int32_t argmax(std::span<const float> values) {
  const auto found = std::find(values.begin(), values.end(), largest(values));
  return found == values.end() ? 0 : static_cast<int32_t>(found - values.begin());
}

/// e^x for x <= 0, within 2 units in the last place, 0 below -87 and for NaN. Plain arithmetic, so that loops over it
/// become vector code with the same results everywhere.
inline float exp_of_negative(float x) {
  const float bounded = x > -87.0F ? x : -87.0F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
  const float scaled = bounded * 1.44269504F + kRound;
  const float n = scaled - kRound;
  const float r = (bounded - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float mantissa = p * (r * r) + r + 1.0F;
  const auto exponent = static_cast<int32_t>(n);
  const float power = std::bit_cast<float>((exponent + 127) << 23);
  return x > -87.0F ? mantissa * power : 0.0F;
}

/// The sum of e^((value - highest) * inverse), each lane in order, then the lanes.
double sum_of_weights(std::span<const float> values, float highest, float inverse) {
  constexpr size_t kSumLanes = 16;
  double sums[kSumLanes] = {};
  size_t i = 0;
  for (; i + kSumLanes <= values.size(); i += kSumLanes) {
    for (size_t lane = 0; lane < kSumLanes; ++lane) {
      sums[lane] += static_cast<double>(exp_of_negative((values[i + lane] - highest) * inverse));
    }
  }
  double sum = 0;
  for (const double lane : sums) sum += lane;
  for (; i < values.size(); ++i) sum += static_cast<double>(exp_of_negative((values[i] - highest) * inverse));
  return sum;
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
  if (params.logprobs < -1 || params.logprobs > kLogprobsMax) {
    return make_error(ErrorCode::invalid_argument, "top_logprobs", "should be in [0, {}], got {}", kLogprobsMax,
                      params.logprobs);
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

Sampler::Sampler(int vocab) : adjusted_(static_cast<size_t>(vocab)) {}

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
  Sampled sampled;
  sampled.token = greedy ? argmax(scores) : draw(scores, params, position);
  if (params.logprobs >= 0) add_logprobs(logits, params.logprobs, sampled);
  return sampled;
}

void Sampler::add_logprobs(std::span<const float> logits, int alternatives, Sampled& sampled) {
  const float highest = largest(logits);
  const double log_sum = std::log(sum_of_weights(logits, highest, 1.0F));
  const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit - highest) - log_sum); };
  sampled.logprob = logprob(logits[static_cast<size_t>(sampled.token)]);
  if (alternatives == 0) return;
  find_best(logits, static_cast<size_t>(alternatives));
  for (const Candidate& best : candidates_) sampled.top.push_back({best.token, logprob(best.score)});
}

/// Fills candidates_ with the `count` best scores in order (fewer if there are not so many numbers).
void Sampler::find_best(std::span<const float> scores, size_t count) {
  // As many blocks have a peak of at least the count-th largest peak, so at least as many scores reach it: what lies
  // below cannot be among the best.
  const size_t block = std::max<size_t>(1, std::min(scores.size() / (4 * count), size_t{256}));
  peaks_.clear();
  for (size_t i = 0; i < scores.size(); i += block) {
    peaks_.push_back(largest(scores.subspan(i, std::min(block, scores.size() - i))));
  }
  float threshold = -INFINITY;
  if (count < peaks_.size()) {
    const auto place = peaks_.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::nth_element(peaks_.begin(), place, peaks_.end(), std::greater<>());
    threshold = *place;
  }
  candidates_.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] >= threshold) candidates_.push_back({scores[i], static_cast<int32_t>(i)});
  }
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.token < b.token;
  };
  const size_t kept = std::min(count, candidates_.size());
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept);
  if (end != candidates_.end()) std::nth_element(candidates_.begin(), end, candidates_.end(), better);
  std::sort(candidates_.begin(), end, better);
  candidates_.resize(kept);
}

int32_t Sampler::draw(std::span<const float> scores, const SamplingParams& params, int64_t position) {
  // Weights are probabilities relative to the best token's.
  const float highest = largest(scores);
  if (highest == -INFINITY) return 0;  // nothing but NaN
  const double chance = counter_uniform(params.seed, static_cast<uint64_t>(position));
  const bool has_top_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < scores.size();
  const bool cuts = params.top_p < 1 || params.min_p > 0;
  if (!has_top_k && !cuts) return draw_from_all(scores, params, highest, chance);

  const float inverse = 1.0F / params.temperature;
  const auto weight = [&](const Candidate& candidate) {
    return static_cast<double>(exp_of_negative((candidate.score - highest) * inverse));
  };
  // Only the head of the ranking is needed: as much of it as it takes to reach top_p.
  const size_t limit = has_top_k ? static_cast<size_t>(params.top_k) : scores.size();
  find_best(scores, has_top_k ? limit : std::min<size_t>(limit, 256));
  double wanted = 0;
  if (has_top_k) {
    for (const Candidate& candidate : candidates_) wanted += weight(candidate);
  } else {
    wanted = sum_of_weights(scores, highest, inverse);
  }
  wanted *= static_cast<double>(params.top_p);
  double kept = 0;
  size_t count = 0;
  for (;; ++count) {
    if (count == candidates_.size()) {
      if (count >= limit) break;
      find_best(scores, std::min(limit, count * 8));
      if (count == candidates_.size()) break;  // the rest is NaN
    }
    const double next = weight(candidates_[count]);
    if (count > 0 && cuts && (kept >= wanted || next < static_cast<double>(params.min_p))) break;
    kept += next;
  }
  double reached = 0;
  size_t chosen = 0;
  for (; chosen + 1 < count; ++chosen) {
    reached += weight(candidates_[chosen]);
    if (reached > chance * kept) break;
  }
  return candidates_[chosen].token;
}

/// No cut: all tokens in order of their ids, by blocks, so that only one block is gone through token by token.
int32_t Sampler::draw_from_all(std::span<const float> scores, const SamplingParams& params, float highest,
                               double chance) {
  constexpr size_t kBlock = 1024;
  const float inverse = 1.0F / params.temperature;
  const auto block_at = [&](size_t begin) { return scores.subspan(begin, std::min(kBlock, scores.size() - begin)); };
  sums_.clear();
  double total = 0;
  for (size_t begin = 0; begin < scores.size(); begin += kBlock) {
    sums_.push_back(sum_of_weights(block_at(begin), highest, inverse));
    total += sums_.back();
  }
  double left = chance * total;
  size_t block = 0;
  while (block + 1 < sums_.size() && left >= sums_[block]) left -= sums_[block++];
  int32_t last = argmax(scores);  // for a target that rounding has put past the end
  const std::span<const float> values = block_at(block * kBlock);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto weight = static_cast<double>(exp_of_negative((values[i] - highest) * inverse));
    if (weight == 0) continue;
    last = static_cast<int32_t>(block * kBlock + i);
    left -= weight;
    if (left < 0) break;
  }
  return last;
}

}  // namespace keye::engine
