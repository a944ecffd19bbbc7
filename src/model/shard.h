// Which part of a model a rank has (tensor parallel).
#pragma once

#include <cstdint>

#include "base/result.h"
#include "model/config.h"

namespace keye::model {

/// Rank `rank` of `size`. Attention is split by heads, feed-forward layers by width, the head by vocabulary; experts by
/// width, or, with expert_groups > 1 (`--ep-size`), first by expert into so many groups of ranks, then by width within
/// a group. Norms, routers, indexers, MLA's compressed projections, embeddings and the vision encoder are whole on
/// every rank.
struct Shard {
  int rank = 0;
  int size = 1;
  int expert_groups = 1;

  /// Part `rank` of `size` of [0, total): parts differ by one at most, earlier ones are the longer ones.
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t length() const { return end - begin; }
    /// Of heads: their elements, `width` each.
    Range widened(int64_t width) const { return {begin * width, end * width}; }
  };
  Range of(int64_t total) const;
};

/// The KV heads that a rank's heads attend to: its share of them, or one that several ranks have.
Shard::Range kv_heads_of(const TextConfig& config, const Shard& shard);

/// Which experts a rank has, and how much of each one's width.
struct ExpertShare {
  Shard::Range experts;
  Shard::Range width;
};
ExpertShare expert_share(const TextConfig& config, const Shard& shard);

/// Of the width of the experts that every token has.
Shard::Range shared_range(const TextConfig& config, const Shard& shard);

/// Errors: unsupported (heads, widths or experts of this model that cannot be split so, by name, with what can).
Result<void> check_shard(const ModelConfig& config, const Shard& shard);

}  // namespace keye::model
