// Features of pictures that were encoded before, by features_key().
#pragma once

#include "base/lru_cache.h"
#include "tensor/tensor.h"

namespace keye::engine {

using VisionCache = LruCache<Tensor>;
/// [tokens, hidden] f32. Shared by the sequences that still need them and the cache.
using Features = VisionCache::Shared;

}  // namespace keye::engine
