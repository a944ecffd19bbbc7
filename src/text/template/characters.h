// What Python's str knows about characters: classes, case mappings, line breaks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/marked.h"

namespace keye::text::unicode {

struct Decoded {
  char32_t code = 0;
  size_t bytes = 1;
};

/// The code point at byte `at` (< text.size()). A byte that is not UTF-8 reads as U+FFFD of one byte.
Decoded decode(std::string_view text, size_t at);
/// The start of the code point that ends before byte `at` (> 0).
size_t previous(std::string_view text, size_t at);
void encode(char32_t code, std::string& out);
/// Whether all of `text` is well-formed UTF-8 without surrogates; else `bad` is the first wrong byte's position.
bool is_utf8(std::string_view text, size_t* bad);

bool is_space(char32_t code);       // str.isspace
bool is_line_break(char32_t code);  // str.splitlines
bool is_printable(char32_t code);
bool is_alpha(char32_t code);
bool is_decimal(char32_t code);
bool is_digit(char32_t code);
bool is_numeric(char32_t code);
bool is_alnum(char32_t code);
bool is_upper(char32_t code);
bool is_lower(char32_t code);
bool is_title(char32_t code);
bool is_cased(char32_t code);
bool is_identifier_start(char32_t code);
bool is_identifier_part(char32_t code);
/// 0 to 9, or -1.
int decimal_value(char32_t code);
/// The character with this Unicode name or alias, or 0.
char32_t by_name(const std::string& name);

/// Case mappings of a whole text; every byte keeps the origin of the character it came from.
Marked to_upper(const Marked& text);
Marked to_lower(const Marked& text);
Marked to_title(const Marked& text);
Marked swap_case(const Marked& text);
Marked fold_case(const Marked& text);
/// First character in title case, the rest in lower case.
Marked capitalize(const Marked& text);

}  // namespace keye::text::unicode
