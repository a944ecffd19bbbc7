#include "engine/vision_cache.h"

#include <utility>

namespace keye::engine {

Features VisionCache::find(const Digest& content) {
  const auto found = places_.find(content);
  if (found == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->features;
}

void VisionCache::add(const Digest& content, Features features) {
  const size_t bytes = features->view().bytes();
  if (bytes > bytes_max_ || places_.contains(content)) return;
  entries_.push_front({content, std::move(features)});
  places_[content] = entries_.begin();
  bytes_ += bytes;
  while (bytes_ > bytes_max_) {
    bytes_ -= entries_.back().features->view().bytes();
    places_.erase(entries_.back().content);
    entries_.pop_back();
  }
}

void VisionCache::clear() {
  entries_.clear();
  places_.clear();
  bytes_ = 0;
}

}  // namespace keye::engine
