// Sets of code points: categories and character classes of regular expressions.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace keye::text {

inline constexpr char32_t kCodePointMax = 0x10FFFF;

class CodePointSet {
 public:
  /// Both ends belong to the range.
  struct Range {
    char32_t first;
    char32_t last;
    bool operator==(const Range&) const = default;
  };

  CodePointSet() = default;
  CodePointSet(char32_t first, char32_t last) : ranges_{{first, last}} {}

  CodePointSet operator|(const CodePointSet& other) const;
  CodePointSet& operator|=(const CodePointSet& other) { return *this = *this | other; }
  /// Every other code point, up to kCodePointMax.
  CodePointSet operator~() const;
  bool operator==(const CodePointSet&) const = default;

  bool contains(char32_t c) const;
  /// Ascending, not empty, not touching.
  std::span<const Range> ranges() const { return ranges_; }

  /// A general category ("L", "Lu", ...), or nothing for a name that is none.
  static std::optional<CodePointSet> category(std::string_view name);
  /// White_Space: what \s means.
  static const CodePointSet& white_space();
  /// What the tokenizers library takes for the characters of a word around an added token with single_word.
  static const CodePointSet& word();
  /// What its pre-tokenizer `Digits` takes for a number.
  static const CodePointSet& numeric();

 private:
  std::vector<Range> ranges_;
};

}  // namespace keye::text
