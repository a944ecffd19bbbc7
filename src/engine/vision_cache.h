// Features of pictures that were encoded before, by features_key().
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <unordered_map>

#include "base/hash.h"
#include "tensor/tensor.h"

namespace keye::engine {

/// [tokens, hidden] f32. Shared by the sequences that still need them and the cache.
using Features = std::shared_ptr<const Tensor>;

/// Holds what was used last, up to a number of bytes. Features that are alone larger than that are not held.
class VisionCache {
 public:
  explicit VisionCache(size_t bytes_max) : bytes_max_(bytes_max) {}

  /// Null if they are not there.
  Features find(const Digest& key);
  void add(const Digest& key, Features features);
  void clear();

  size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    Digest key;
    Features features;
  };

  size_t bytes_max_;
  size_t bytes_ = 0;
  std::list<Entry> entries_;  // the one used last comes first
  std::unordered_map<Digest, std::list<Entry>::iterator, DigestHash> places_;
};

}  // namespace keye::engine
