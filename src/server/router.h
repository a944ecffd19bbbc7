// Which handler answers which path, and who may ask.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "server/exchange.h"

namespace keye::server {

enum class Access : uint8_t {
  everybody,
  key,    // any of the API keys, or the admin key
  admin,  // the admin key; where there is none, as `key`
};

struct ApiKeys {
  std::vector<std::string> keys;  // none: requests need no key
  std::string admin;
};

/// Names that a request's Host may have. A page in a browser on this machine can reach a server that listens only here,
/// under a name of its own that it lets point here, and read its answers: the name is all that tells.
struct HostRule {
  bool only_local = false;          // addresses, localhost, and `others`
  std::vector<std::string> others;  // "*": any

  bool allows(const HttpRequest& request) const;
};

struct Route {
  std::string method;  // "GET|POST" for both
  std::string path;    // a last "*" stands for anything
  Access access = Access::key;
  Handler handler;
};

class Router {
 public:
  /// `origins`: of web pages that may call, "*" for all; none: CORS is off.
  Router(ApiKeys keys, std::vector<std::string> origins, HostRule hosts = {})
      : keys_(std::move(keys)), origins_(std::move(origins)), hosts_(std::move(hosts)) {}

  void add(Route route) { routes_.push_back(std::move(route)); }
  const std::vector<Route>& routes() const { return routes_; }

  /// Why a request may not go on: 401, 403, 404, 405, or the answer to a browser's preflight.
  std::optional<HttpResponse> screen(const HttpRequest& request) const;
  /// Screens and answers.
  void handle(std::shared_ptr<Exchange> exchange) const;
  /// The path of the route that answers, for metrics: bounded, whatever is asked for.
  std::string_view route_path(const HttpRequest& request) const;
  /// Headers that let the page's origin read a response; none where CORS is off.
  HttpHeaders cors_headers(const HttpRequest& request) const;
  bool is_allowed(const HttpRequest& request, Access access) const;
  /// 401, for who is not allowed.
  static HttpResponse key_needed(Access access);
  /// The key of "Authorization: Bearer KEY" or "X-API-Key: KEY"; empty if there is none.
  static std::string_view key_of(const HttpRequest& request);

 private:
  const Route* find(const HttpRequest& request, bool any_method) const;

  ApiKeys keys_;
  std::vector<std::string> origins_;
  HostRule hosts_;
  std::vector<Route> routes_;
};

}  // namespace keye::server
