// Who uses which page of the KV cache: counts only, no memory.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace keye::engine {

class PagePool {
 public:
  explicit PagePool(int pages);

  int free_pages() const { return static_cast<int>(free_.size()); }
  int total_pages() const { return static_cast<int>(users_.size()); }

  /// A page with one user, or -1 if none is free.
  int32_t take();
  /// One more user of a page in use.
  void share(int32_t page);
  /// One user less; the last one frees it.
  void release(int32_t page);
  int users(int32_t page) const { return users_[static_cast<size_t>(page)]; }

 private:
  std::vector<int32_t> free_;  // a stack: the page freed last is taken first, as it may still be cached
  std::vector<int> users_;
};

}  // namespace keye::engine
