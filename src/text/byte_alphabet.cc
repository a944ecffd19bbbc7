#include "text/byte_alphabet.h"

#include <array>

#include "text/unicode.h"

namespace keye::text {
namespace {

struct Alphabet {
  std::array<char32_t, 256> letters{};
  std::array<int16_t, 0x180> bytes{};  // by letter, -1 for no letter
};

constexpr bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr Alphabet kAlphabet = [] {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t letter = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.letters[static_cast<size_t>(byte)] = letter;
    alphabet.bytes[letter] = static_cast<int16_t>(byte);
  }
  return alphabet;
}();

}  // namespace

char32_t letter_of_byte(uint8_t byte) { return kAlphabet.letters[byte]; }

std::string spell_bytes(std::string_view bytes) {
  std::string spelled;
  for (const char byte : bytes) append_utf8(letter_of_byte(static_cast<uint8_t>(byte)), spelled);
  return spelled;
}

void append_spelled_bytes(std::string_view token, std::string& out) {
  const size_t size_before = out.size();
  for (std::string_view rest = token; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    const bool letter = step.kind == Utf8Step::Kind::character && step.code_point < kAlphabet.bytes.size() &&
                        kAlphabet.bytes[step.code_point] >= 0;
    if (!letter) {
      out.resize(size_before);
      out += token;
      return;
    }
    out += static_cast<char>(static_cast<unsigned char>(kAlphabet.bytes[step.code_point]));
    rest.remove_prefix(step.bytes);
  }
}

}  // namespace keye::text
