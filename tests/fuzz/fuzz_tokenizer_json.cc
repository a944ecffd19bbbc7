// Any bytes as a tokenizer.json: read or refused; what is accepted encodes and decodes a text without harm. The fuzzer
// seldom gets a vocabulary right on its own, so a part of the inputs replaces parts of a working tokenizer.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/small_tokenizer.h"

namespace {

constexpr std::string_view kText = "I'm  caf\u00E9 e\u0301\u4F60\u597D 12345\r\n<s> \U0001F600\xFF\tend";

void exercise(const keye::text::Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = tokenizer.encode(kText);
  for (const int32_t id : ids) KEYE_CHECK(tokenizer.id_to_token(id).has_value(), "id {}", id);
  KEYE_CHECK(keye::text::is_utf8(tokenizer.decode(ids, true)));
  (void)tokenizer.encode(kText, std::string(kText.size(), keye::text::kOriginAssistant));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto tokenizer = keye::text::Tokenizer::from_json(text, "fuzz")) exercise(*tokenizer);

  const auto part = keye::parse_json(text, "fuzz");
  if (!part || !part->is_object()) return 0;
  keye::Json whole = keye::text::small_tokenizer({{"a", "b"}, {"e", "n"}, {"en", "d"}});
  for (const auto& [name, value] : part->items()) (name == "merges" ? whole["model"][name] : whole[name]) = value;
  if (const auto tokenizer = keye::text::read(whole)) exercise(*tokenizer);
  return 0;
}
