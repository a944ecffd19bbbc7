// The paged cache: what is remembered per token, as the model declares it.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "ops/backend.h"
#include "ops/paged_kv.h"
#include "tensor/tensor.h"

namespace keye::model {

/// One thing that every layer remembers for every token.
struct PlaneSpec {
  std::string_view name;  // "key", "value", "index_key"
  DType dtype = DType::bf16;
  ops::PlaneLayout layout = ops::PlaneLayout::keys;
  int heads = 0;
  int dim = 0;

  ops::KvPlane plane(std::byte* data) const { return {data, dtype, layout, heads, dim}; }
};

struct KvSpec {
  int layers = 0;
  std::vector<PlaneSpec> planes;

  /// All planes of all layers.
  size_t bytes_per_token() const;
};

/// Memory for `pages` pages of every plane and layer. It becomes resident as pages are first written.
class KvCache {
 public:
  /// The backend must outlive the cache.
  KvCache(const KvSpec& spec, int pages, ops::Backend& backend);

  /// The plane with this index in spec.planes, at one layer.
  ops::KvPlane plane(int index, int layer) const;
  int pages() const { return pages_; }

 private:
  KvSpec spec_;
  int pages_;
  std::vector<Buffer> planes_;  // one for each plane: [layers][pages][page bytes]
};

}  // namespace keye::model
