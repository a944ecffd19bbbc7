// Which id stands for which token, both ways.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace keye::text {

/// Ids are below this: room for ten times the largest published vocabularies, and no giant table for a file that lies.
inline constexpr int64_t kTokenIdEnd = int64_t{1} << 22;

class Vocabulary {
 public:
  /// Errors: corrupt_data (an id out of range or taken, a token that is there already).
  Result<void> add(std::string_view token, int64_t id, std::string_view where);

  std::optional<int32_t> find(std::string_view token) const;
  /// Nothing for an id without a token. Views live until the next add().
  std::optional<std::string_view> token(int32_t id) const;

  /// How many tokens there are.
  int32_t size() const { return size_; }
  /// One more than the largest id.
  int32_t id_end() const { return static_cast<int32_t>(entries_.size()); }

 private:
  struct Entry {
    uint32_t begin = 0;
    uint32_t bytes = 0;
    bool used = false;
  };

  size_t slot_of(std::string_view token) const;
  void grow();
  std::string_view text_of(const Entry& entry) const { return {letters_.data() + entry.begin, entry.bytes}; }

  std::string letters_;         // of all tokens, one after the other
  std::vector<Entry> entries_;  // by id
  std::vector<int32_t> slots_;  // hash table of ids with linear probing, -1 empty; its size is a power of two
  int32_t size_ = 0;
};

}  // namespace keye::text
