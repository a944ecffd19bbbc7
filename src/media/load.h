// Where a picture's bytes come from: a path, a file URI or a data URI.
#pragma once

#include <string>
#include <string_view>

#include "media/image.h"

namespace keye::media {

/// The bytes behind `reference`, as a command line or a message's image_url.url gives it:
///   data:[type][;base64],payload   base64 or percent-encoded
///   file:///path                   percent-decoded; the host must be empty or localhost
///   anything else without "://"    a path
/// Errors: unsupported (http, https and other schemes), invalid_argument (a malformed URI), not_found, io, too_large
/// (over limits.bytes_max, checked before decoding).
Result<std::string> load_media_bytes(std::string_view reference, const MediaLimits& limits);

/// `reference` for a message: a data URI is cut, as is what is too long for any path.
std::string shown_reference(std::string_view reference);

/// Standard or URL-safe alphabet, padding optional, spaces and line breaks skipped, anything else refused.
/// Errors: invalid_argument.
Result<std::string> decode_base64(std::string_view text);

/// %XX to bytes; all else stays. Errors: invalid_argument.
Result<std::string> decode_percent(std::string_view text);

}  // namespace keye::media
