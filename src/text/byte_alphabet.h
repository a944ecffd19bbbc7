// The 256 letters that byte-level vocabularies spell bytes with: a printable byte of Latin-1 is spelled by the
// character of its number, every other byte by the next one from U+0100 on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace keye::text {

/// The letter of a byte.
char32_t letter_of_byte(uint8_t byte);

/// Bytes spelled in letters, as UTF-8.
std::string spell_bytes(std::string_view bytes);

/// Appends what a token spells: its bytes, or, if any of its characters is no letter, its own UTF-8. (So do the
/// tokenizers library's decoders; it is what makes an added token like "<｜User｜>" decode to itself.)
void append_spelled_bytes(std::string_view token, std::string& out);

}  // namespace keye::text
