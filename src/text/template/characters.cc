#include "text/template/characters.h"

#include <unicode/uchar.h>
#include <unicode/ustring.h>

namespace keye::text::unicode {
namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kCapitalSigma = 0x3A3;

UChar32 icu(char32_t code) { return static_cast<UChar32>(code); }

bool in_categories(char32_t code, uint32_t mask) { return (U_GET_GC_MASK(icu(code)) & mask) != 0; }

bool is_case_ignorable(char32_t code) { return u_hasBinaryProperty(icu(code), UCHAR_CASE_IGNORABLE); }

enum class Case { upper, lower, title, fold };

/// Appends the full mapping of one character.
void append_mapped(char32_t code, Case mapping, char origin, Marked& out) {
  if (code < 0x80) {
    const bool raise = mapping == Case::upper || mapping == Case::title;
    char byte = static_cast<char>(code);
    if (raise && byte >= 'a' && byte <= 'z') byte = static_cast<char>(byte - 'a' + 'A');
    if (!raise && byte >= 'A' && byte <= 'Z') byte = static_cast<char>(byte - 'A' + 'a');
    out.append(std::string_view(&byte, 1), origin);
    return;
  }
  UChar source[2];
  UChar mapped[8];
  int32_t source_length = 0;
  U16_APPEND_UNSAFE(source, source_length, icu(code));
  UErrorCode status = U_ZERO_ERROR;
  int32_t length = 0;
  switch (mapping) {
    case Case::upper:
      length = u_strToUpper(mapped, 8, source, source_length, "", &status);
      break;
    case Case::lower:
      length = u_strToLower(mapped, 8, source, source_length, "", &status);
      break;
    case Case::title:
      length = u_strToTitle(mapped, 8, source, source_length, nullptr, "", &status);
      break;
    case Case::fold:
      length = u_strFoldCase(mapped, 8, source, source_length, U_FOLD_CASE_DEFAULT, &status);
      break;
  }
  std::string bytes;
  for (int32_t at = 0; at < length;) {
    UChar32 next = 0;
    U16_NEXT_UNSAFE(mapped, at, next);
    encode(static_cast<char32_t>(next), bytes);
  }
  out.append(bytes, origin);
}

/// A capital sigma at the end of a word becomes a final sigma: a cased letter before it and none after, skipping
/// characters that do not matter for case.
bool is_final_sigma(std::string_view text, size_t at, size_t after) {
  size_t before = at;
  char32_t code = 0;
  do {
    if (before == 0) return false;
    before = previous(text, before);
    code = decode(text, before).code;
  } while (is_case_ignorable(code));
  if (!u_hasBinaryProperty(icu(code), UCHAR_CASED)) return false;
  while (after < text.size()) {
    const Decoded next = decode(text, after);
    if (!is_case_ignorable(next.code)) return !u_hasBinaryProperty(icu(next.code), UCHAR_CASED);
    after += next.bytes;
  }
  return true;
}

void append_lower(const Marked& text, size_t at, Decoded here, Marked& out) {
  if (here.code == kCapitalSigma) {
    out.append(is_final_sigma(text.text, at, at + here.bytes) ? "\u03C2" : "\u03C3", text.origin_at(at));
  } else {
    append_mapped(here.code, Case::lower, text.origin_at(at), out);
  }
}

/// Calls each(position, character) for every character.
template <class Each>
void for_each_character(const Marked& text, const Each& each) {
  for (size_t at = 0; at < text.size();) {
    const Decoded here = decode(text.text, at);
    each(at, here);
    at += here.bytes;
  }
}

}  // namespace

Decoded decode(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  if (first < 0x80) return {first, 1};
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || at + length > text.size()) return {kReplacement, 1};
  char32_t code = first & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {kReplacement, 1};
    code = (code << 6) | (byte(at + i) & 0x3Fu);
  }
  const char32_t smallest = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
  if (code < smallest || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return {kReplacement, 1};
  return {code, length};
}

size_t previous(std::string_view text, size_t at) {
  size_t start = at - 1;
  while (start > 0 && at - start < 4 && (text[start] & 0xC0) == 0x80) --start;
  return start + decode(text, start).bytes == at ? start : at - 1;
}

void encode(char32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
    return;
  }
  const int continuation = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const uint32_t lead = continuation == 1 ? 0xC0 : continuation == 2 ? 0xE0 : 0xF0;
  out.push_back(static_cast<char>(lead | (code >> (6 * continuation))));
  for (int i = continuation - 1; i >= 0; --i) out.push_back(static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F)));
}

bool is_utf8(std::string_view text, size_t* bad) {
  for (size_t at = 0; at < text.size();) {
    const Decoded here = decode(text, at);
    if (here.bytes == 1 && here.code == kReplacement) {
      *bad = at;
      return false;
    }
    at += here.bytes;
  }
  return true;
}

bool is_space(char32_t code) {
  if (code < 0x80) return (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x20);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_line_break(char32_t code) {
  return (code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 || code == 0x2028 ||
         code == 0x2029;
}

bool is_printable(char32_t code) {
  if (code < 0x7F) return code >= 0x20;
  return !in_categories(code, U_GC_C_MASK | U_GC_Z_MASK);
}

bool is_alpha(char32_t code) { return in_categories(code, U_GC_L_MASK); }
bool is_decimal(char32_t code) { return u_getIntPropertyValue(icu(code), UCHAR_NUMERIC_TYPE) == U_NT_DECIMAL; }
bool is_digit(char32_t code) {
  const int32_t type = u_getIntPropertyValue(icu(code), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}
bool is_numeric(char32_t code) { return u_getIntPropertyValue(icu(code), UCHAR_NUMERIC_TYPE) != U_NT_NONE; }
bool is_alnum(char32_t code) { return is_alpha(code) || is_numeric(code); }
bool is_upper(char32_t code) { return u_hasBinaryProperty(icu(code), UCHAR_UPPERCASE); }
bool is_lower(char32_t code) { return u_hasBinaryProperty(icu(code), UCHAR_LOWERCASE); }
bool is_title(char32_t code) { return u_charType(icu(code)) == U_TITLECASE_LETTER; }
bool is_cased(char32_t code) { return is_upper(code) || is_lower(code) || is_title(code); }
bool is_identifier_start(char32_t code) { return code == '_' || u_hasBinaryProperty(icu(code), UCHAR_XID_START); }
bool is_identifier_part(char32_t code) { return u_hasBinaryProperty(icu(code), UCHAR_XID_CONTINUE); }

int decimal_value(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9' ? static_cast<int>(code - '0') : -1;
  return is_decimal(code) ? u_charDigitValue(icu(code)) : -1;
}

char32_t by_name(const std::string& name) {
  for (const UCharNameChoice choice : {U_UNICODE_CHAR_NAME, U_CHAR_NAME_ALIAS}) {
    UErrorCode status = U_ZERO_ERROR;
    const UChar32 code = u_charFromName(choice, name.c_str(), &status);
    if (U_SUCCESS(status)) return static_cast<char32_t>(code);
  }
  return 0;
}

Marked to_upper(const Marked& text) {
  Marked out;
  for_each_character(text,
                     [&](size_t at, Decoded here) { append_mapped(here.code, Case::upper, text.origin_at(at), out); });
  return out;
}

Marked to_lower(const Marked& text) {
  Marked out;
  for_each_character(text, [&](size_t at, Decoded here) { append_lower(text, at, here, out); });
  return out;
}

Marked to_title(const Marked& text) {
  Marked out;
  bool inside_word = false;
  for_each_character(text, [&](size_t at, Decoded here) {
    if (inside_word) {
      append_lower(text, at, here, out);
    } else {
      append_mapped(here.code, Case::title, text.origin_at(at), out);
    }
    inside_word = is_cased(here.code);
  });
  return out;
}

Marked swap_case(const Marked& text) {
  Marked out;
  for_each_character(text, [&](size_t at, Decoded here) {
    if (is_upper(here.code)) {
      append_lower(text, at, here, out);
    } else if (is_lower(here.code)) {
      append_mapped(here.code, Case::upper, text.origin_at(at), out);
    } else {
      out.append(text, at, here.bytes);
    }
  });
  return out;
}

Marked fold_case(const Marked& text) {
  Marked out;
  for_each_character(text,
                     [&](size_t at, Decoded here) { append_mapped(here.code, Case::fold, text.origin_at(at), out); });
  return out;
}

Marked capitalize(const Marked& text) {
  Marked out;
  for_each_character(text, [&](size_t at, Decoded here) {
    if (at == 0) {
      append_mapped(here.code, Case::title, text.origin_at(at), out);
    } else {
      append_lower(text, at, here, out);
    }
  });
  return out;
}

}  // namespace keye::text::unicode
