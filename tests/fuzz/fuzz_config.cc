// Any bytes as config.json and generation_config.json: parsed or refused; what is accepted has usable sizes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = keye::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json) return 0;
  (void)keye::model::parse_generation(*json, *json, "fuzz");
  const auto config = keye::model::parse_config(*json, "fuzz");
  if (!config) return 0;
  const keye::model::TextConfig& text = config->text;
  KEYE_CHECK(text.heads % text.kv_heads == 0 && text.head_dim % 2 == 0);
  if (text.mrope_sections) {
    const auto& s = *text.mrope_sections;
    KEYE_CHECK(s[0] >= 0 && s[1] >= 0 && s[2] >= 0 && s[0] + s[1] + s[2] == text.head_dim / 2);
  }
  if (config->vision) KEYE_CHECK(config->vision->hidden % config->vision->heads == 0 && config->vision->grid_side >= 1);
  return 0;
}
