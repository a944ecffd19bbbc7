// From references to bytes: data URIs, files, and http(s) under a policy that lets nobody into the network behind us.
#pragma once

#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "media/fetch_policy.h"
#include "media/image.h"
#include "media/video.h"

namespace keye::media {

/// The bytes behind each reference, as a command line or a message's image_url.url gives it:
///   data:[type][;base64],payload   base64 or percent-encoded
///   file:///path, path             as the policy allows
///   http://, https://              as the policy allows; the address that is judged is the one that is connected to
/// Each has its own result. Remote ones are fetched at the same time from the calling thread; no proxy, cookie,
/// password file or environment variable is used, certificates are verified, redirects are judged like references.
///
/// Errors, their `where` being shown_reference(): invalid_argument (malformed, or refused by the policy),
/// unsupported (a kind of reference that the policy or this program does not know), not_found, io, too_large (over
/// limits.bytes_max), unavailable (no name, connection or trusted certificate, a status 408, 429 or 5xx), deadline,
/// cancelled (all that were not done when `stop` was requested; the call then returns at once).
std::vector<Result<std::string>> fetch_media(std::span<const std::string> references, const FetchPolicy& policy,
                                             const MediaLimits& limits, const std::stop_token& stop = {});

/// The clip behind a reference: as above, but files are opened, not read. Errors: the same; too_large over `bytes_max`.
Result<Clip> fetch_clip(const std::string& reference, const FetchPolicy& policy, int64_t bytes_max,
                        const std::stop_token& stop = {});

/// One reference.
Result<std::string> fetch_media(const std::string& reference, const FetchPolicy& policy, const MediaLimits& limits,
                                const std::stop_token& stop = {});

}  // namespace keye::media
