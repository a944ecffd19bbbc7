#include "engine/vision_cache.h"

#include <utility>

namespace keye::engine {

Features VisionCache::find(const Digest& key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->features;
}

void VisionCache::add(const Digest& key, Features features) {
  const size_t bytes = features->view().bytes();
  if (bytes > bytes_max_ || places_.contains(key)) return;
  entries_.push_front({key, std::move(features)});
  places_[key] = entries_.begin();
  bytes_ += bytes;
  while (bytes_ > bytes_max_) {
    bytes_ -= entries_.back().features->view().bytes();
    places_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

void VisionCache::clear() {
  entries_.clear();
  places_.clear();
  bytes_ = 0;
}

}  // namespace keye::engine
