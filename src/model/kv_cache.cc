#include "model/kv_cache.h"

namespace keye::model {

size_t KvSpec::bytes_per_token() const {
  size_t sum = 0;
  for (const PlaneSpec& plane : planes) sum += plane.plane(nullptr).page_bytes() / ops::kPageTokens;
  return sum * static_cast<size_t>(layers);
}

KvCache::KvCache(const KvSpec& spec, int pages, ops::Backend& backend) : spec_(spec), pages_(pages) {
  for (const PlaneSpec& plane : spec_.planes) {
    planes_.emplace_back(
        plane.plane(nullptr).page_bytes() * static_cast<size_t>(pages) * static_cast<size_t>(spec_.layers),
        backend.memory());
  }
}

ops::KvPlane KvCache::plane(int index, int layer) const {
  const PlaneSpec& spec = spec_.planes[static_cast<size_t>(index)];
  const size_t layer_bytes = spec.plane(nullptr).page_bytes() * static_cast<size_t>(pages_);
  auto* data = static_cast<std::byte*>(planes_[static_cast<size_t>(index)].data());
  return spec.plane(data + static_cast<size_t>(layer) * layer_bytes);
}

}  // namespace keye::model
