#include "loadtest/plan.h"

#include <algorithm>
#include <cmath>

namespace keye::loadtest {
namespace {

// What the random numbers are for. Prompts use the requests' own streams (request.cc).
constexpr uint64_t kGapStream = uint64_t{1} << 62;
constexpr uint64_t kImageStream = uint64_t{1} << 61;

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
  return bits ^ (bits >> 31);
}

}  // namespace

Random::Random(uint64_t seed, uint64_t stream) : state_(mix(mix(seed + kGolden) ^ mix(stream * kGolden + 1))) {}

uint64_t Random::next() {
  state_ += kGolden;
  return mix(state_);
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

Plan::Plan(const Config& config)
    : open_loop_(config.open_loop()),
      poisson_(config.poisson),
      rate_(config.rate),
      requests_(config.requests),
      duration_s_(config.duration_s),
      seed_(config.seed),
      images_(static_cast<int>(config.images.size())),
      image_share_(config.image_share),
      gaps_(config.seed, kGapStream) {}

std::optional<Planned> Plan::next(double now_s) {
  if (requests_ > 0 && index_ >= requests_) return std::nullopt;
  const double at_s = open_loop_ ? due_s_ : now_s;
  if (duration_s_ > 0 && at_s >= duration_s_) return std::nullopt;
  const Planned planned{.index = index_, .at_s = at_s, .image = image_of(index_)};
  ++index_;
  // Equal gaps are multiplied, not added up, so that a long test does not drift.
  if (open_loop_)
    due_s_ = poisson_ ? due_s_ - std::log(1 - gaps_.uniform()) / rate_ : static_cast<double>(index_) / rate_;
  return planned;
}

int Plan::image_of(int64_t index) const {
  if (images_ == 0) return -1;
  Random random(seed_, kImageStream + static_cast<uint64_t>(index));
  if (random.uniform() >= image_share_) return -1;
  return static_cast<int>(random.next() % static_cast<uint64_t>(images_));
}

int64_t words_for_tokens(Counted shorter, Counted longer, int64_t tokens) {
  if (shorter.tokens < 1 || longer.tokens <= shorter.tokens || longer.words <= shorter.words) {
    return std::max<int64_t>(1, tokens);
  }
  const double tokens_per_word =
      static_cast<double>(longer.tokens - shorter.tokens) / static_cast<double>(longer.words - shorter.words);
  const double more = static_cast<double>(tokens - shorter.tokens) / tokens_per_word;
  return std::max<int64_t>(1, shorter.words + std::llround(more));
}

}  // namespace keye::loadtest
