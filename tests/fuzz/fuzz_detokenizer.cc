// Any ids, and any bytes as text: pieces are valid UTF-8 and join to the whole; encoding any text and decoding it gives
// the repaired text back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/detokenizer.h"
#include "text/small_tokenizer.h"

namespace {

const keye::text::Tokenizer& tokenizer() {
  static const keye::text::Tokenizer made = [] {
    keye::Json json = keye::text::small_tokenizer({{"a", "b"}, {"\u00C3", "\u00A9"}, {"ab", "ab"}});
    json["pre_tokenizer"]["use_regex"] = true;
    keye::text::add_token(json, "<s>", {.special = true});
    keye::text::add_token(json, "<\u00E9>");
    return *keye::text::read(json);
  }();
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string repaired = keye::text::repair_utf8(text, {}).text;
  KEYE_CHECK(tokenizer().decode(tokenizer().encode_plain(text), false) == repaired);
  KEYE_CHECK(tokenizer().encode(text) == tokenizer().encode(repaired));

  // Two bytes an id, so that ids without a token occur.
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < size; i += 2) ids.push_back(data[i] | (data[i + 1] & 3) << 8);
  for (const bool skip : {false, true}) {
    keye::text::Detokenizer detokenizer(tokenizer(), skip);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.push(id);
      KEYE_CHECK(keye::text::is_utf8(piece));
      joined += piece;
    }
    KEYE_CHECK(joined + detokenizer.flush() == tokenizer().decode(ids, skip));
  }
  return 0;
}
