// Byte pair encoding: the word's bytes become tokens, and neighbours are merged in the order of the ranks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/vocabulary.h"

namespace keye::text {

/// What two neighbouring tokens become, and how early: the lowest rank first.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit MergeTable(size_t merges);
  /// The last of several merges of one pair counts.
  void set(int32_t left, int32_t right, uint32_t rank, int32_t product);
  /// The rank of the pair's merge, or kNone.
  uint32_t rank(int32_t left, int32_t right) const { return slots_[slot_of(key_of(left, right))].rank; }
  int32_t product(uint32_t rank) const { return products_[rank]; }

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t rank = kNone;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const {
    auto slot = static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
    while (slots_[slot].rank != kNone && slots_[slot].key != key) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  std::vector<Slot> slots_;  // linear probing, at most half full
  std::vector<int32_t> products_;
  int shift_ = 0;
};

class Bpe {
 public:
  /// Reads the "model" of a tokenizer.json. Refused by name: other models, dropout, byte_fallback, subword prefixes and
  /// suffixes. Errors: unsupported, corrupt_data.
  static Result<Bpe> parse(const Json& model, const std::string& where);

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  friend class BpeEncoder;
  explicit Bpe(size_t merges) : merges_(merges) {}
  Result<void> read_merges(const Json& merges, const std::string& where);

  Vocabulary vocabulary_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_{};  // -1 for a byte without a token
  int32_t unknown_id_ = -1;              // stands for such bytes; without it they are left out
  bool fuse_unknown_ = false;            // one for several in a row
  bool whole_words_first_ = false;       // "ignore_merges": a word that is a token is that token
};

/// Encodes the words of one text, one after the other.
class BpeEncoder {
 public:
  /// `ids` is appended to, and must not be changed by others meanwhile. `bytes` is about how much text there is.
  BpeEncoder(const Bpe& bpe, std::vector<int32_t>& ids, size_t bytes);

  /// The word's bytes must live as long as this object, which remembers where it has met a word before.
  void encode(std::string_view word);

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;  // -1 for none
    int32_t next;      // -1 for none
    uint32_t rank;     // of the merge with the next; MergeTable::kNone if there is none or the symbol is merged away
    bool alive;
  };
  struct Seen {
    std::string_view word;
    size_t begin = 0;  // of its ids
    size_t count = 0;
  };

  void encode_new(std::string_view word);
  void spell(std::string_view word);
  void add_symbol(int32_t id);
  void merge_all();
  void queue_pair(int32_t position);

  const Bpe& bpe_;
  std::vector<int32_t>& ids_;
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> queue_;  // a heap of rank << 32 | position
  std::vector<Seen> seen_;       // by hash; its size is a power of two, or 0
};

}  // namespace keye::text
