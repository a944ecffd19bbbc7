// The "pre_tokenizer" of a tokenizer.json: cuts a text into the words that byte pair encoding never looks beyond.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace keye::text {

/// What happens to the matches of a split.
enum class SplitBehavior : uint8_t { isolated, removed, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  /// What split() writes to; one for each thread. Words that are not part of the text live in it.
  class Scratch {
   public:
    Scratch() = default;

   private:
    friend class PreTokenizer;
    struct Piece {
      uint32_t first;  // code points [first, last)
      uint32_t last;
      bool is_match;
    };
    Regex::Scratch regex_;
    CodePoints points_;
    std::vector<uint8_t> kinds_;
    std::vector<Piece> pieces_;
    std::vector<Piece> cut_;
    std::deque<std::string> prefixed_;
  };

  /// Reads ByteLevel, or a Sequence of Split and Digits that ends with ByteLevel. Errors: unsupported, corrupt_data,
  /// too_large.
  static Result<PreTokenizer> parse(const Json& pre_tokenizer, const std::string& where);

  /// Appends the words of `text`, valid UTF-8 of less than 4 GiB; `text` and `scratch` must live as long as they do.
  void split(std::string_view text, Scratch& scratch, std::vector<std::string_view>& words) const;

 private:
  struct Cut {
    Regex regex;
    SplitBehavior behavior;
    bool invert;
  };

  Result<void> add(const Json& part, const std::string& where);
  Result<void> add_split(const Json& part, const std::string& where);
  Result<void> add_digits(const Json& part, const std::string& where);
  Result<void> add_byte_level(const Json& part, const std::string& where);
  static void split_by(std::span<const Cut> cuts, std::string_view text, Scratch& scratch,
                       std::vector<std::string_view>& words);
  static void cut_pieces(const Cut& cut, Scratch& scratch);

  std::vector<Cut> cuts_;
  std::vector<Cut> prefixed_cuts_;  // made after a space has been put in front
  bool add_prefix_space_ = false;
  bool complete_ = false;  // ByteLevel has been read
};

}  // namespace keye::text
