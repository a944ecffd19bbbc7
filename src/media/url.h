// The program's only reader of http and https URLs: what is checked and what is connected to are one parse.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace keye::media {

inline constexpr size_t kUrlBytesMax = 8192;

/// A host in its one form: a lower-case name, dotted decimal, or IPv6 without brackets.
struct Host {
  std::string text;
  bool is_ip = false;

  bool operator==(const Host&) const = default;
};

/// An absolute URL. `path_and_query` starts with "/", is free of dot segments and as escaped as it came; a fragment is
/// checked and dropped, for it is never sent.
struct Url {
  std::string scheme;  // "http" or "https"
  Host host;
  uint16_t port = 0;  // never 0 once parsed
  std::string path_and_query;

  bool operator==(const Url&) const = default;
  /// The canonical text, which parses to the same Url; the scheme's own port is left out.
  std::string to_string() const;
};

/// Reads RFC 3986 to the letter. Where readers are known to differ, a URL is refused rather than understood:
/// backslashes, spaces, controls and other bytes outside the grammar, user names, escapes or non-ASCII letters in the
/// host, IPv4 in any form but four decimal numbers, IPv6 zones, empty ports. Messages name the place by character,
/// never the URL. Errors: invalid_argument; unsupported (another scheme); too_large (over kUrlBytesMax).
Result<Url> parse_url(std::string_view text);

/// `reference`, a Location header's value, seen from `base` (RFC 3986, 5.2). Errors: as parse_url.
Result<Url> resolve_url(const Url& base, std::string_view reference);

/// A host alone, IPv6 with or without brackets. Errors: invalid_argument.
Result<Host> parse_host(std::string_view text);

}  // namespace keye::media
