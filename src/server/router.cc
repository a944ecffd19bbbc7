#include "server/router.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/hash.h"
#include "media/address.h"
#include "server/http_parser.h"

namespace keye::server {
namespace {

bool matches(const Route& route, std::string_view path) {
  if (!route.path.ends_with('*')) return path == route.path;
  return path.starts_with(std::string_view(route.path).substr(0, route.path.size() - 1));
}

bool takes(const Route& route, std::string_view method) {
  if (method == "HEAD") method = "GET";
  const std::string_view both = route.method;
  const size_t bar = both.find('|');
  return method == both.substr(0, bar) || (bar != std::string_view::npos && method == both.substr(bar + 1));
}

std::string allowed_methods(const Route& route) {
  std::string allowed = route.method;
  if (const size_t bar = allowed.find('|'); bar != std::string::npos) allowed.replace(bar, 1, ", ");
  if (allowed.starts_with("GET")) allowed.insert(3, ", HEAD");
  return allowed;
}

}  // namespace

bool HostRule::allows(const HttpRequest& request) const {
  if (!only_local) return true;
  const std::string_view given = request.header("host");
  if (given.empty()) return request.http_1_0;  // no browser
  std::string host(given.substr(0, given.starts_with('[') ? given.find(']') + 1 : given.find(':')));
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  if (host == "localhost" || host.ends_with(".localhost")) return true;
  if (std::any_of(others.begin(), others.end(),
                  [&](const std::string& other) { return other == "*" || other == host; }))
    return true;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return media::parse_ip(host).has_value();
}

std::string_view Router::key_of(const HttpRequest& request) {
  const std::string_view authorization = request.header("authorization");
  constexpr std::string_view kBearer = "bearer ";
  const bool is_bearer = authorization.size() > kBearer.size() &&
                         std::equal(kBearer.begin(), kBearer.end(), authorization.begin(), [](char a, char b) {
                           return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b);
                         });
  if (is_bearer) return authorization.substr(kBearer.size());
  return request.header("x-api-key");
}

const Route* Router::find(const HttpRequest& request, bool any_method) const {
  const auto found = std::find_if(routes_.begin(), routes_.end(), [&](const Route& route) {
    return matches(route, request.path) && (any_method || takes(route, request.method));
  });
  return found == routes_.end() ? nullptr : &*found;
}

/// Compares with every key, so that the time does not tell which one was nearly right.
bool Router::is_allowed(const HttpRequest& request, Access access) const {
  if (access == Access::everybody) return true;
  const std::string_view given = key_of(request);
  const bool is_admin = !keys_.admin.empty() && equal_secrets(given, keys_.admin);
  if (access == Access::admin && !keys_.admin.empty()) return is_admin;
  if (keys_.keys.empty()) return true;
  bool is_known = is_admin;
  for (const std::string& key : keys_.keys) is_known |= equal_secrets(given, key);
  return is_known;
}

HttpResponse Router::key_needed(Access access) {
  HttpResponse response =
      error_response(401,
                     access == Access::admin ? "this needs the admin key, as Authorization: Bearer KEY"
                                             : "an API key is needed, as Authorization: Bearer KEY",
                     {}, {}, "invalid_api_key");
  response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpHeaders Router::cors_headers(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || origins_.empty()) return {};
  const bool any = std::find(origins_.begin(), origins_.end(), "*") != origins_.end();
  if (!any && std::find(origins_.begin(), origins_.end(), origin) == origins_.end()) return {};
  HttpHeaders headers = {{"Access-Control-Allow-Origin", any ? "*" : std::string(origin)},
                         {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"}};
  if (!any) headers.emplace_back("Vary", "Origin");
  return headers;
}

std::optional<HttpResponse> Router::screen(const HttpRequest& request) const {
  if (!hosts_.allows(request)) {
    return error_response(403,
                          "a server without keys that listens only on this machine is not reached by other names; "
                          "see --allowed-hosts");
  }
  if (request.method == "OPTIONS") {
    HttpHeaders headers = cors_headers(request);
    if (headers.empty()) {
      HttpResponse refusal =
          error_response(405, "OPTIONS is for pages of other origins, and none or not this one may call");
      refusal.headers.emplace_back("Allow", "GET, HEAD, POST");
      return refusal;
    }
    headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, X-API-Key, X-Request-Id");
    headers.emplace_back("Access-Control-Max-Age", "600");
    return HttpResponse{.status = 204, .headers = std::move(headers), .body = {}};
  }
  const Route* route = find(request, true);
  // Whoever has no key does not learn which paths there are.
  if (!is_allowed(request, route == nullptr ? Access::key : route->access)) {
    return key_needed(route == nullptr ? Access::key : route->access);
  }
  if (route == nullptr) return error_response(404, fmt::format("there is nothing at {}", request.path.substr(0, 200)));
  if (find(request, false) == nullptr) {
    HttpResponse response = error_response(405, fmt::format("{} takes {}", route->path, route->method));
    response.headers.emplace_back("Allow", allowed_methods(*route));
    return response;
  }
  return std::nullopt;
}

void Router::handle(std::shared_ptr<Exchange> exchange) const {
  if (auto refusal = screen(exchange->request())) return exchange->respond(std::move(*refusal));
  find(exchange->request(), false)->handler(exchange);
}

std::string_view Router::route_path(const HttpRequest& request) const {
  const Route* route = find(request, true);
  return route == nullptr ? std::string_view("other") : std::string_view(route->path);
}

}  // namespace keye::server
