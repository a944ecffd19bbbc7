// What a reference to a picture holds or names on this machine: data URIs, file URIs, and how references are shown.
#pragma once

#include <string>
#include <string_view>

#include "base/descriptor.h"
#include "base/file.h"
#include "media/image.h"

namespace keye::media {

/// The payload of data:[type][;base64],payload, base64 or percent-encoded.
/// Errors: invalid_argument, too_large (over limits.bytes_max, checked before decoding).
Result<std::string> load_data_uri(std::string_view uri, const MediaLimits& limits);

/// The absolute path of file:///path, percent-decoded; the host must be empty or localhost. Errors: invalid_argument.
Result<Path> file_uri_path(std::string_view uri);

/// The file at `path`, an absolute path, when it lies below `root` (as given, or with its symbolic links resolved) and
/// nothing on its way leads out. Errors: those of read_file_below; a path elsewhere is refused unlooked at.
Result<std::string> load_below(const Path& root, const Path& path, const MediaLimits& limits);

/// The same, opened.
Result<OpenFile> open_below(const Path& root, const Path& path);

/// `reference` for a message: a data URI is cut, as is what is too long for any path, and control characters are
/// written as \xNN, so that nobody else's bytes steer a terminal.
std::string shown_reference(std::string_view reference);

/// Standard or URL-safe alphabet, padding optional, spaces and line breaks skipped, anything else refused.
/// Errors: invalid_argument.
Result<std::string> decode_base64(std::string_view text);

/// %XX to bytes; all else stays. Errors: invalid_argument.
Result<std::string> decode_percent(std::string_view text);

}  // namespace keye::media
