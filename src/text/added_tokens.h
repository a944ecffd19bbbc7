// The "added_tokens" of a tokenizer.json: strings that are found in a text before anything else looks at it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "text/normalizer.h"
#include "text/vocabulary.h"

namespace keye::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;       // as written in the file
  std::string text;          // what is searched for and what it decodes from: content, normalised if `normalized`
  bool single_word = false;  // not next to a word character
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // searched for in the normalised text
  bool special = false;
  bool is_skipped =
      false;  // where special tokens are left out: its text, not its content, is a special token's content
};

/// Finds the longest of a set of strings at a place of a text.
class AddedTokenTrie {
 public:
  static constexpr int kNone = -1;
  struct Found {
    int token = kNone;
    size_t bytes = 0;
  };

  AddedTokenTrie() : nodes_(1) {}
  /// False if the string is there already.
  bool insert(std::string_view text, int token, bool special);
  /// The longest string that `text` begins with and that may be recognised there: a byte of a user allows none, one of
  /// the assistant only those that are not special. `origin` is as long as `text`, or empty.
  Found longest(std::string_view text, std::string_view origin) const;
  bool may_begin(char byte) const { return begins_[static_cast<uint8_t>(byte)]; }

 private:
  struct Node {
    int token = kNone;
    bool special = false;
    std::vector<std::pair<char, uint32_t>> next;  // by byte, in order
  };
  const Node* follow(const Node& node, char byte) const;

  std::vector<Node> nodes_;
  std::array<bool, 256> begins_{};
};

class AddedTokens {
 public:
  /// A part of a text: one added token, or bytes [begin, end) without any. Parts can overlap, where a token took the
  /// white space that the next one begins with.
  struct Part {
    int32_t id = -1;  // -1 for text
    size_t begin = 0;
    size_t end = 0;
  };

  /// Reads the list. Ids must be the ones that the tokenizers library would give: those of the vocabulary for tokens in
  /// it, then the next free ones in order. Errors: unsupported, corrupt_data, too_large.
  static Result<AddedTokens> parse(const Json& added_tokens, const Vocabulary& vocabulary, const Normalizer& normalizer,
                                   const std::string& where);

  /// Cuts a text at the tokens with the given `normalized`. Valid UTF-8; `origin` as in text/marked.h, or empty.
  void split(std::string_view text, std::string_view origin, bool normalized, std::vector<Part>& parts) const;

  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  /// One more than the largest id.
  int32_t id_end() const { return id_end_; }

 private:
  Result<void> add(const Json& entry, const Vocabulary& vocabulary, const Normalizer& normalizer,
                   const std::string& where);

  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_content_;
  AddedTokenTrie raw_;
  AddedTokenTrie normalized_;
  int32_t next_id_ = 0;
  int32_t id_end_ = 0;
};

}  // namespace keye::text
