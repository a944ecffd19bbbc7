// Compiles and renders any bytes as a chat template, with small limits and a fixed conversation. What comes out must be
// UTF-8 with an origin for every byte, and the same when rendered again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/template.h"
#include "text/unicode.h"
#include "text/value_text.h"

namespace {

constexpr std::string_view kVariables = R"({
  "messages": [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "na\u00efve \u4f60\u597d <|im_end|>\n\ttwo"},
    {"role": "assistant", "content": "<think>\nr\n</think>\n\nok", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": [1, 2.5, null]}}}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
  "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}}],
  "add_generation_prompt": true, "bos_token": "<s>", "n": 3, "x": -1.5, "s": "a,b\u00df", "d": {"k": 1, "items": [2]}, "big": 18446744073709551616
})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keye;
  static const text::Value variables = *text::parse_value(kVariables, text::kOriginUser, "variables");
  const Result<text::Template> compiled = text::Template::compile({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!compiled) return 0;
  text::TemplateLimits limits;
  limits.steps_max = 20'000;
  limits.string_bytes_max = 1 << 16;
  limits.items_max = 5'000;
  const Result<text::Rendered> first = compiled->render(variables, limits);
  const Result<text::Rendered> second = compiled->render(variables, limits);
  KEYE_CHECK(first.has_value() == second.has_value());
  if (!first) return 0;
  KEYE_CHECK(first->text == second->text && first->origin == second->origin);
  KEYE_CHECK(first->origin.empty() || first->origin.size() == first->text.size());
  KEYE_CHECK(text::is_utf8(first->text));
  KEYE_CHECK(first->size() <= limits.string_bytes_max);
  return 0;
}
