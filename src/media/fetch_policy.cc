#include "media/fetch_policy.h"

#include <algorithm>

#include "media/ascii.h"

namespace keye::media {
namespace {

bool matches(std::string_view domain, const Host& host) {
  if (domain.starts_with("*.")) {
    const std::string ending = lower(domain.substr(1));
    return !host.is_ip && host.text.ends_with(ending);
  }
  const auto named = parse_host(domain);
  return named && *named == host;
}

Result<void> check_domain(std::string_view domain) {
  const bool below = domain.starts_with("*.");
  const auto host = parse_host(below ? domain.substr(2) : domain);
  if (host && !(below && host->is_ip)) return {};
  return make_error(
      ErrorCode::invalid_argument, domain,
      "not a media domain: expected a host name, \"*.\" and a name, or an IP address, without scheme, port "
      "and path{}{}",
      host ? "" : "; ", host ? "" : host.error().message);
}

}  // namespace

Result<void> check_policy(const FetchPolicy& policy) {
  for (const std::string& domain : policy.domains) KEYE_TRY_VOID(check_domain(domain));
  constexpr std::chrono::milliseconds kTimeoutMax = std::chrono::hours(24);
  if (policy.timeout < std::chrono::milliseconds(1) || policy.timeout > kTimeoutMax) {
    return make_error(ErrorCode::invalid_argument, "media timeout", "{} ms, expected 1 to {}", policy.timeout.count(),
                      kTimeoutMax.count());
  }
  if (policy.redirects_max < 0 || policy.parallel_max < 1) {
    return make_error(ErrorCode::invalid_argument, "media",
                      "{} redirects and {} parallel fetches, expected 0 and 1 or more", policy.redirects_max,
                      policy.parallel_max);
  }
  if (!policy.local_root) return {};
  std::error_code failure;
  const auto status = std::filesystem::status(*policy.local_root, failure);
  if (!std::filesystem::exists(status))
    return make_error(ErrorCode::not_found, policy.local_root->string(), "no such folder");
  if (!std::filesystem::is_directory(status))
    return make_error(ErrorCode::io, policy.local_root->string(), "not a folder");
  return {};
}

Result<void> check_url(const Url& url, const FetchPolicy& policy) {
  if (!policy.remote) {
    return make_error(ErrorCode::unsupported, "", "nothing is fetched from the network here; send a data: URI");
  }
  const auto named = [&](const std::string& domain) { return matches(domain, url.host); };
  if (policy.domains.empty() || std::ranges::any_of(policy.domains, named)) return {};
  return make_error(ErrorCode::invalid_argument, "", "the host {} is not among the allowed media domains",
                    url.host.text);
}

Result<void> check_redirect(const Url& from, const Url& to, const FetchPolicy& policy) {
  if (from.scheme == "https" && to.scheme != "https") {
    return make_error(ErrorCode::invalid_argument, "", "a redirect from https to {}", to.scheme);
  }
  return check_url(to, policy);
}

std::string_view refused_address(const sockaddr& address, const FetchPolicy& policy) {
  const auto ip = socket_ip(address);
  if (!ip) return "neither IPv4 nor IPv6";
  return policy.domains.empty() ? not_public(*ip) : std::string_view();
}

}  // namespace keye::media
