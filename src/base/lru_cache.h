// What was made before and may be asked for again, by digest.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <unordered_map>
#include <utility>

#include "base/hash.h"

namespace keye {

/// Holds what was used last, up to a number of bytes. What is alone larger than that is not held. Used by one thread at
/// a time; whoever got a value shares it with the cache.
template <class T>
class LruCache {
 public:
  using Shared = std::shared_ptr<const T>;

  explicit LruCache(size_t bytes_max) : bytes_max_(bytes_max) {}

  /// Null if it is not there.
  Shared find(const Digest& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->value;
  }

  void add(const Digest& key, Shared value, size_t bytes) {
    if (bytes > bytes_max_ || places_.contains(key)) return;
    entries_.push_front({key, std::move(value), bytes});
    places_[key] = entries_.begin();
    bytes_ += bytes;
    while (bytes_ > bytes_max_) {
      bytes_ -= entries_.back().bytes;
      places_.erase(entries_.back().key);
      entries_.pop_back();
    }
  }

  void clear() {
    entries_.clear();
    places_.clear();
    bytes_ = 0;
  }

  size_t bytes() const { return bytes_; }
  size_t bytes_max() const { return bytes_max_; }

 private:
  struct Entry {
    Digest key;
    Shared value;
    size_t bytes = 0;
  };

  size_t bytes_max_;
  size_t bytes_ = 0;
  std::list<Entry> entries_;  // the one used last comes first
  std::unordered_map<Digest, typename std::list<Entry>::iterator, DigestHash> places_;
};

}  // namespace keye
