// What a process may fetch for whoever names pictures: the difference between a command line and a server.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "media/address.h"
#include "media/url.h"

namespace keye::media {

/// As it stands: data: URIs, and http(s) to hosts on the public internet. No files.
struct FetchPolicy {
  /// Plain paths and file:// URIs, all that the user may read: for a command line.
  bool any_path = false;
  /// file:// URIs below this folder, regular files only, and no plain paths: for a server.
  std::optional<Path> local_root;
  /// http and https at all.
  bool remote = true;
  /// If not empty, only these hosts: names, IP addresses, or "*." and a name for all names that end in it (not itself).
  /// Only named hosts may have addresses that are not public.
  std::vector<std::string> domains;
  /// For one reference from its first connection on, redirects included.
  std::chrono::milliseconds timeout{30'000};
  /// For all references of one call, as many as there are.
  std::chrono::milliseconds all_timeout{120'000};
  /// Of all of them together, whatever the limit of one is.
  size_t all_bytes_max = size_t{512} << 20;
  int redirects_max = 3;
  /// Fetches at the same time, of one call.
  int parallel_max = 8;
};

/// For flags, before anything is fetched. Errors: invalid_argument (a domain with a scheme, port or path, a number out
/// of range), not_found, io (local_root is not a folder).
Result<void> check_policy(const FetchPolicy& policy);

/// Whether `url` may be asked for. Errors: unsupported, invalid_argument.
Result<void> check_url(const Url& url, const FetchPolicy& policy);
/// Whether a redirect may be followed: as any reference, and never from https to http.
Result<void> check_redirect(const Url& from, const Url& to, const FetchPolicy& policy);

/// Why no connection to `address` may be opened, for a message, or empty when it may.
std::string_view refused_address(const sockaddr& address, const FetchPolicy& policy);

}  // namespace keye::media
