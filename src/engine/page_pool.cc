#include "engine/page_pool.h"

namespace keye::engine {

PagePool::PagePool(int pages) : users_(static_cast<size_t>(pages), 0) {
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
}

int32_t PagePool::take() {
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::share(int32_t page) {
  KEYE_CHECK(users(page) > 0, "page {} is free", page);
  ++users_[static_cast<size_t>(page)];
}

void PagePool::release(int32_t page) {
  KEYE_CHECK(users(page) > 0, "page {} is free", page);
  if (--users_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

}  // namespace keye::engine
