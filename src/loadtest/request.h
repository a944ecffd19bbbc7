// What is sent: prompts of made-up words, JSON bodies, the lines in front of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "loadtest/config.h"

namespace keye::loadtest {

/// Numbers of prompts that are not the measured requests' own (those are the requests' indices).
inline constexpr uint64_t kWarmupPrompts = uint64_t{1} << 40;
inline constexpr uint64_t kProbePrompts = uint64_t{1} << 41;

/// config.prompt_words random words with a space between them, the first config.shared_prefix of them the same for
/// every `number`. The words are common English ones, a token each in most vocabularies.
std::string prompt_text(const Config& config, uint64_t number);

/// A request's body in three parts, so that a picture is held once for all requests.
struct Body {
  std::string head;
  std::string_view picture;
  std::string tail;

  size_t size() const { return head.size() + picture.size() + tail.size(); }
};

/// A streaming request with one user message or prompt. The picture (a URI without characters that JSON escapes, or
/// nothing) follows the text: in front, it would be a prefix that requests share. It must outlive the body.
Body make_body(const Config& config, std::string_view text, std::string_view picture_uri);

/// The request line and the header fields, for a body of so many bytes of JSON (0: none, a GET).
std::string http_head(const Config& config, const Url& url, std::string_view path, size_t body_bytes);

/// A data: URI for a picture file. Errors: not_found, io, too_large, unsupported (not a picture's first bytes).
Result<std::string> picture_uri(const Path& path);
std::string encode_base64(std::string_view bytes);

}  // namespace keye::loadtest
