// Names for what a page of the KV cache holds: equal names, equal bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "prompt/prompt.h"

namespace keye::engine {

/// Where a chain of keys begins. Sequences share pages only if they begin alike: `model` is what was computed with,
/// `salt` keeps tenants apart, so that none can learn from the clock what another has asked.
Digest page_key_root(std::string_view model, std::string_view salt);

/// The key of the page of tokens [first, first + kPageTokens) of a sequence: a digest of all tokens up to its end, and
/// of the pixels behind those that stand for pictures (placeholders of different pictures are equal tokens).
/// `before` is the key of the page before it, or the root; `tokens` is the whole sequence, `vision` its pictures.
Digest page_key(const Digest& before, std::span<const int32_t> tokens, std::span<const prompt::VisionItem> vision,
                int64_t first);

/// What a picture's features are kept under: the picture, and who asked, for the same reason.
Digest features_key(const Digest& content, std::string_view salt);

/// The keys of all whole pages of a prompt.
std::vector<Digest> page_keys(const prompt::Prompt& prompt, const Digest& root);

}  // namespace keye::engine
