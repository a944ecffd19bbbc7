// UTF-8 and the normal forms of Unicode. ICU is used here only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/marked.h"

namespace keye::text {

/// What the first bytes of a text are.
struct Utf8Step {
  enum class Kind : uint8_t {
    character,   // `bytes` bytes of one code point
    invalid,     // `bytes` bytes that no following byte can make valid: a maximal subpart, one U+FFFD
    incomplete,  // all `bytes` remaining bytes are the beginning of a character
  };
  Kind kind;
  uint8_t bytes;
  char32_t code_point;  // of a character
};

/// `text` must not be empty.
Utf8Step utf8_step(std::string_view text);

bool is_utf8(std::string_view text);

/// Appends one code point.
void append_utf8(char32_t code_point, std::string& out);

/// Appends `bytes` with every maximal invalid subpart replaced by U+FFFD (as the Unicode standard recommends, and as
/// Python's and Rust's lossy decoders do). An incomplete character at the end is left out; returns how many bytes were
/// used.
size_t append_valid_utf8(std::string_view bytes, std::string& out);

/// The whole text with invalid and incomplete parts replaced by U+FFFD, which takes the origin of the part's first
/// byte.
Marked repair_utf8(std::string_view text, std::string_view origin);

/// The code points of valid UTF-8 and where each begins.
struct CodePoints {
  std::vector<char32_t> values;
  std::vector<uint32_t> starts;  // one more than values: the last is the size of the text

  void assign(std::string_view text);
};

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

/// The library counts bytes in 32 bits, also those of the result, which can be eleven times as long.
inline constexpr size_t kNormalizeBytesMax = size_t{1} << 30;

/// Normalises by the data of Unicode 9.0, which is what the tokenizers library has: characters assigned later are left
/// alone and order nothing. `text` is valid UTF-8 of at most kNormalizeBytesMax bytes. A normalised character takes the
/// most restricted origin of what it was made from: user before assistant before engine.
Marked normalize(NormalForm form, std::string_view text, std::string_view origin);

/// True only if normalize() would change nothing; cheap, and almost always right.
bool is_surely_normalized(NormalForm form, std::string_view text);

}  // namespace keye::text
