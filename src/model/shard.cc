#include "model/shard.h"

#include <algorithm>

namespace keye::model {

Shard::Range Shard::of(int64_t total) const {
  const int64_t each = total / size;
  const int64_t more = total % size;
  const auto begin = [&](int64_t part) { return part * each + std::min(part, more); };
  return {begin(rank), begin(rank + 1)};
}

}  // namespace keye::model
namespace keye::model {
Result<void> check_shard(const ModelConfig&, const Shard&) { return {}; }
}  // namespace keye::model
