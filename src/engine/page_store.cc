#include "engine/page_store.h"

namespace keye::engine {

PageStore::PageStore(int pages, bool keeps) : keeps_(keeps), pages_(static_cast<size_t>(pages)) {
  free_.reserve(pages_.size());
  by_key_.reserve(pages_.size());
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
}

size_t PageStore::count_matches(std::span<const Digest> keys) const {
  size_t count = 0;
  while (count < keys.size() && by_key_.contains(keys[count])) ++count;
  return count;
}

void PageStore::take_matches(std::span<const Digest> keys, size_t count, std::vector<int32_t>& pages) {
  for (size_t i = 0; i < count; ++i) {
    const auto found = by_key_.find(keys[i]);
    KEYE_CHECK(found != by_key_.end(), "page {} of a chain is not there", i);
    add_user(found->second);
    pages.push_back(found->second);
  }
}

int32_t PageStore::take() {
  if (free_.empty()) {
    if (oldest_ < 0) return -1;
    const int32_t page = oldest_;
    unkeep(page);
    forget(page);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  at(page).users = 1;
  return page;
}

int32_t PageStore::publish(int32_t page, const Digest& key) {
  KEYE_CHECK(users(page) == 1 && !has_key(page), "page {} has {} users", page, users(page));
  const auto [place, is_new] = by_key_.try_emplace(key, page);
  if (is_new) {
    at(page).keyed = true;
    at(page).key = key;
    return page;
  }
  add_user(place->second);
  at(page).users = 0;
  free_.push_back(page);
  return place->second;
}

void PageStore::release(std::span<const int32_t> pages) {
  for (size_t i = pages.size(); i-- > 0;) {
    Page& page = at(pages[i]);
    KEYE_CHECK(page.users > 0, "page {} has no user", pages[i]);
    if (--page.users > 0) continue;
    if (page.keyed && keeps_) {
      keep(pages[i]);
    } else {
      forget(pages[i]);
    }
  }
}

int PageStore::flush() {
  const int count = kept_;
  while (oldest_ >= 0) {
    const int32_t page = oldest_;
    unkeep(page);
    forget(page);
  }
  return count;
}

void PageStore::add_user(int32_t page) {
  if (at(page).users++ == 0) unkeep(page);
}

/// To the newest end of the list.
void PageStore::keep(int32_t page) {
  at(page).older = newest_;
  at(page).newer = -1;
  if (newest_ >= 0) at(newest_).newer = page;
  newest_ = page;
  if (oldest_ < 0) oldest_ = page;
  ++kept_;
}

void PageStore::unkeep(int32_t page) {
  const Page& p = at(page);
  (p.older >= 0 ? at(p.older).newer : oldest_) = p.newer;
  (p.newer >= 0 ? at(p.newer).older : newest_) = p.older;
  --kept_;
}

/// A page without users becomes free.
void PageStore::forget(int32_t page) {
  if (at(page).keyed) by_key_.erase(at(page).key);
  at(page).keyed = false;
  free_.push_back(page);
}

void PageStore::check_invariants() const {
  int used = 0;
  size_t keyed = 0;
  for (const Page& page : pages_) {
    used += page.users > 0 ? 1 : 0;
    keyed += page.keyed ? 1 : 0;
  }
  int listed = 0;
  for (int32_t page = oldest_; page >= 0; page = at(page).newer) {
    KEYE_CHECK(at(page).users == 0 && at(page).keyed, "kept page {} has {} users", page, at(page).users);
    ++listed;
  }
  KEYE_CHECK(listed == kept_, "{} kept pages listed, {} counted", listed, kept_);
  KEYE_CHECK(keyed == by_key_.size(), "{} pages with keys, {} known", keyed, by_key_.size());
  KEYE_CHECK(static_cast<int>(free_.size()) + kept_ + used == total_pages(), "{} free + {} kept + {} used of {}",
             free_.size(), kept_, used, total_pages());
}

}  // namespace keye::engine
