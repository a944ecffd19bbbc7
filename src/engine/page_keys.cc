#include "engine/page_keys.h"

#include <algorithm>

#include "ops/paged_kv.h"

namespace keye::engine {

Digest page_key_root(std::string_view model, std::string_view salt) {
  return Sha256().add_text("keye kv page 1").add_text(model).add_text(salt).finish();
}

Digest features_key(const Digest& content, std::string_view salt) {
  return Sha256().add_text("keye features 1").add_text(salt).add(std::as_bytes(std::span(content.bytes))).finish();
}

Digest page_key(const Digest& before, std::span<const int32_t> tokens, std::span<const prompt::VisionItem> vision,
                int64_t first) {
  const int64_t end = first + ops::kPageTokens;
  Sha256 hash;
  hash.add(std::as_bytes(std::span(before.bytes)));
  hash.add(std::as_bytes(tokens.subspan(static_cast<size_t>(first), ops::kPageTokens)));
  auto item = std::partition_point(vision.begin(), vision.end(), [&](const prompt::VisionItem& v) {
    return int64_t{v.first_token} + v.tokens <= first;
  });
  for (; item != vision.end() && item->first_token < end; ++item) {
    // Where the page lies in the picture, and which picture.
    hash.add_value(first - item->first_token);
    hash.add(std::as_bytes(std::span(item->content.bytes)));
  }
  return hash.finish();
}

std::vector<Digest> page_keys(const prompt::Prompt& prompt, const Digest& root) {
  std::vector<Digest> keys;
  const auto pages = static_cast<int64_t>(prompt.tokens.size()) / ops::kPageTokens;
  keys.reserve(static_cast<size_t>(pages));
  for (int64_t page = 0; page < pages; ++page) {
    keys.push_back(page_key(keys.empty() ? root : keys.back(), prompt.tokens, prompt.vision, page * ops::kPageTokens));
  }
  return keys;
}

}  // namespace keye::engine
