#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// In order of e, so that a row's result depends on the row alone.
void softmax(const float* logits, std::vector<float>& out) {
  float highest = logits[0];
  for (size_t e = 1; e < out.size(); ++e) highest = std::max(highest, logits[e]);
  float sum = 0.0F;
  for (size_t e = 0; e < out.size(); ++e) {
    out[e] = std::exp(logits[e] - highest);
    sum += out[e];
  }
  for (float& probability : out) probability /= sum;
}

/// The best that is not taken, the first of equals; takes it.
size_t take_best(std::span<const float> ranks, std::vector<bool>& taken) {
  size_t best = ranks.size();
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (!taken[i] && (best == ranks.size() || ranks[i] > ranks[best])) best = i;
  }
  taken[best] = true;
  return best;
}

/// Takes the experts of all groups but the best.
void leave_groups(std::span<const float> ranks, int groups, int kept, std::vector<bool>& taken) {
  const size_t size = ranks.size() / static_cast<size_t>(groups);
  std::vector<float> group_ranks;
  for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
    float best = -std::numeric_limits<float>::infinity();
    float second = best;
    for (const float rank : ranks.subspan(g * size, size)) {
      second = std::max(second, std::min(best, rank));
      best = std::max(best, rank);
    }
    group_ranks.push_back(size == 1 ? best : best + second);
  }
  std::vector<bool> stays(group_ranks.size());
  for (int i = 0; i < kept; ++i) take_best(group_ranks, stays);
  for (size_t e = 0; e < ranks.size(); ++e) taken[e] = !stays[e / size];
}

}  // namespace

void RefBackend::do_moe_route(const MoeRoute& op) {
  const auto e_count = static_cast<size_t>(op.logits.shape[1]);
  const auto k = static_cast<size_t>(op.experts.shape[1]);
  std::vector<float> probabilities(e_count);
  std::vector<float> ranks(e_count);
  std::vector<bool> taken(e_count);
  for (size_t t = 0; t < static_cast<size_t>(op.logits.shape[0]); ++t) {
    const float* logits = op.logits.as<float>() + t * e_count;
    std::fill(taken.begin(), taken.end(), false);
    if (op.score == RouterScore::softmax) {
      softmax(logits, probabilities);
      ranks = probabilities;
    } else {
      for (size_t e = 0; e < e_count; ++e) {
        probabilities[e] = 1.0F / (1.0F + std::exp(-logits[e]));
        ranks[e] = probabilities[e] + op.bias.as<float>()[e];
      }
      leave_groups(ranks, op.groups, op.groups_kept, taken);
    }
    int32_t* experts = op.experts.as<int32_t>() + t * k;
    float* weights = op.weights.as<float>() + t * k;
    float sum = 0.0F;
    for (size_t j = 0; j < k; ++j) {
      const size_t best = take_best(ranks, taken);
      experts[j] = static_cast<int32_t>(best);
      weights[j] = probabilities[best];
      sum += weights[j];
    }
    for (size_t j = 0; j < k; ++j) weights[j] = (op.normalise ? weights[j] / sum : weights[j]) * op.factor;
  }
}

/// A counting sort.
void RefBackend::do_moe_group(const MoeGroup& op) {
  const int64_t k = op.experts.shape[1];
  const std::span<const int32_t> experts(op.experts.as<int32_t>(), static_cast<size_t>(op.experts.elements()));
  const std::span<int32_t> offsets(op.offsets.as<int32_t>(), static_cast<size_t>(op.offsets.elements()));
  std::fill(offsets.begin(), offsets.end(), 0);
  const int64_t here = op.offsets.elements() - 1;
  const auto is_here = [&](int32_t expert) { return op.first <= expert && expert - op.first < here; };
  const int64_t all = op.all == 0 ? here : op.all;
  for (const int32_t expert : experts) {
    KEYE_CHECK(0 <= expert && expert < all, "expert {} of {}", expert, all);
    if (is_here(expert)) ++offsets[static_cast<size_t>(expert - op.first) + 1];
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  for (size_t i = 0; i < experts.size(); ++i) {
    if (!is_here(experts[i])) {
      op.places.as<int32_t>()[i] = -1;
      continue;
    }
    int32_t& next = offsets[static_cast<size_t>(experts[i] - op.first)];
    op.rows.as<int32_t>()[next] = static_cast<int32_t>(static_cast<int64_t>(i) / k);
    op.places.as<int32_t>()[i] = next++;
  }
  // Each offset now stands at its group's end, which is the next group's start.
  std::rotate(offsets.begin(), offsets.end() - 1, offsets.end());
  offsets[0] = 0;
}

void RefBackend::do_moe_combine(const MoeCombine& op) {
  const int64_t c = op.y.shape[1];
  const int64_t k = op.places.shape[1];
  for (int64_t t = 0; t < op.places.shape[0]; ++t) {
    float* out = op.out.as<float>() + t * c;
    for (int64_t j = 0; j < k; ++j) {
      const int64_t place = op.places.as<int32_t>()[t * k + j];
      if (place < 0) continue;
      const float* y = op.y.as<float>() + place * c;
      const float weight = op.weights.as<float>()[t * k + j];
      for (int64_t i = 0; i < c; ++i) out[i] += weight * y[i];
    }
  }
}

}  // namespace keye::ops
