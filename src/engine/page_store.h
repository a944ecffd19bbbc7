// The pages of the KV cache: who uses which, and which of them are kept for later sequences with the same beginning.
// Counts only; the memory is model::KvCache's.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "base/hash.h"

namespace keye::engine {

/// A page is free, in use by some sequences, or kept: full, named by its key, and used by nobody. Kept pages are given
/// up, the one that was used longest ago first, when no page is free.
///
/// A key names all tokens up to the page's end, so the keys of a sequence form a chain, and the store of chains is a
/// tree: sequences that begin alike share its trunk. A sequence holds all pages from its first on and gives them back
/// last page first; so whatever grows out of a page is always given up before the page itself.
class PageStore {
 public:
  /// `keeps`: whether pages survive their last user.
  PageStore(int pages, bool keeps);

  int total_pages() const { return static_cast<int>(pages_.size()); }
  /// Pages that take() can give: free ones and kept ones.
  int available_pages() const { return static_cast<int>(free_.size()) + kept_; }
  int free_pages() const { return static_cast<int>(free_.size()); }
  int kept_pages() const { return kept_; }

  /// How many pages from the start of the chain are there.
  size_t count_matches(std::span<const Digest> keys) const;
  /// Adds one user to the first `count` pages of the chain, which must be there, and appends them to `pages`.
  void take_matches(std::span<const Digest> keys, size_t count, std::vector<int32_t>& pages);
  /// A page with one user and without a key; a kept one is given up for it if need be. -1 if all are in use.
  int32_t take();
  /// The page, which one sequence uses, is full: others may find it by `key`. Returns the page to use from now on: if
  /// there already was one with this key, that one (its bits are the same), and the given one is free again.
  int32_t publish(int32_t page, const Digest& key);
  /// One user less of each, the last page first.
  void release(std::span<const int32_t> pages);
  /// Gives up all kept pages. Returns how many.
  int flush();

  int users(int32_t page) const { return at(page).users; }
  bool has_key(int32_t page) const { return at(page).keyed; }
  /// Free, kept and used pages add up; the list of kept ones is whole. A CHECK.
  void check_invariants() const;

 private:
  struct Page {
    int users = 0;
    bool keyed = false;
    Digest key;
    int32_t older = -1, newer = -1;  // neighbours in the list of kept pages
  };

  Page& at(int32_t page) { return pages_[static_cast<size_t>(page)]; }
  const Page& at(int32_t page) const { return pages_[static_cast<size_t>(page)]; }
  void add_user(int32_t page);
  void keep(int32_t page);
  void unkeep(int32_t page);
  void forget(int32_t page);

  bool keeps_;
  std::vector<Page> pages_;
  std::vector<int32_t> free_;  // a stack: the page freed last is taken first, as it may still be near
  std::unordered_map<Digest, int32_t, DigestHash> by_key_;
  int32_t oldest_ = -1, newest_ = -1;
  int kept_ = 0;
};

}  // namespace keye::engine
