#include "model/shard.h"

#include <algorithm>
#include <vector>

namespace keye::model {
namespace {

/// "1, 2, 4": what would do instead.
std::string list_of(const std::vector<int>& numbers) { return fmt::format("{}", fmt::join(numbers, ", ")); }

std::vector<int> numbers_that(int up_to, const auto& fit) {
  std::vector<int> numbers;
  for (int n = 1; n <= up_to; ++n) {
    if (fit(n)) numbers.push_back(n);
  }
  return numbers;
}

bool fits_kv_heads(const TextConfig& text, int ranks) {
  return text.latent || text.kv_heads % ranks == 0 || ranks % text.kv_heads == 0;
}

}  // namespace

Shard::Range Shard::of(int64_t total) const {
  const int64_t each = total / size;
  const int64_t more = total % size;
  const auto begin = [&](int64_t part) { return part * each + std::min(part, more); };
  return {begin(rank), begin(rank + 1)};
}

Shard::Range kv_heads_of(const TextConfig& config, const Shard& shard) {
  if (shard.size <= config.kv_heads) return shard.of(config.kv_heads);
  const int64_t head = int64_t{shard.rank} * config.kv_heads / shard.size;
  return {head, head + 1};
}

ExpertShare expert_share(const TextConfig& config, const Shard& shard) {
  const int in_group = shard.size / shard.expert_groups;
  const Shard among_groups{shard.rank / in_group, shard.expert_groups};
  const Shard within{shard.rank % in_group, in_group};
  return {among_groups.of(config.moe->experts), within.of(config.moe->intermediate)};
}

Shard::Range shared_range(const TextConfig& config, const Shard& shard) {
  return shard.of(int64_t{config.moe->shared_experts} * config.moe->intermediate);
}

Result<void> check_shard(const ModelConfig& config, const Shard& shard) {
  const TextConfig& text = config.text;
  const int ranks = shard.size;
  KEYE_CHECK(0 <= shard.rank && shard.rank < ranks && shard.expert_groups >= 1, "rank {} of {}", shard.rank, ranks);
  if (ranks == 1 && shard.expert_groups == 1) return {};
  const auto refuse = [&](std::string_view flag, std::string_view what, const std::vector<int>& instead) {
    return make_error(ErrorCode::unsupported, flag, "{} of {}; these can: {}", what, config.architecture,
                      list_of(instead));
  };
  const auto fits = [&](int n) { return text.heads % n == 0 && fits_kv_heads(text, n); };
  if (!fits(ranks)) {
    return refuse("--tp-size",
                  fmt::format("{} ranks cannot share the {} heads and {} KV heads", ranks, text.heads, text.kv_heads),
                  numbers_that(text.heads, fits));
  }
  if (!text.moe && shard.expert_groups > 1) {
    return make_error(ErrorCode::unsupported, "--ep-size", "{} has no experts; leave it out", config.architecture);
  }
  if (text.moe) {
    const auto fits_experts = [&](int n) { return ranks % n == 0 && text.moe->experts % n == 0; };
    if (!fits_experts(shard.expert_groups)) {
      return refuse("--ep-size",
                    fmt::format("{} groups of {} ranks cannot share the {} experts", shard.expert_groups, ranks,
                                text.moe->experts),
                    numbers_that(ranks, fits_experts));
    }
    const int in_group = ranks / shard.expert_groups;
    if (text.moe->intermediate < in_group) {
      return make_error(ErrorCode::unsupported, "--tp-size", "{} ranks cannot share a width of {}; raise --ep-size",
                        in_group, text.moe->intermediate);
    }
  }
  return {};
}

}  // namespace keye::model
