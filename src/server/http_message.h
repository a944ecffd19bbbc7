// Requests and responses of HTTP/1.1, without a connection.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace keye::server {

struct HttpRequest {
  std::string method;                                       // upper case
  std::string path;                                         // of the target, percent-decoded, without the query
  std::string query;                                        // behind the "?", as it came
  std::map<std::string, std::string, std::less<>> headers;  // names in lower case; repeated ones joined by ", "
  std::string body;
  bool keep_alive = true;
  bool http_1_0 = false;

  /// Empty if it is not there.
  std::string_view header(std::string_view lower_case_name) const {
    const auto found = headers.find(lower_case_name);
    return found == headers.end() ? std::string_view() : std::string_view(found->second);
  }
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  HttpHeaders headers;  // besides Content-Length, Connection, Date and Server
  std::string body;
};

std::string_view status_text(int status);

/// The status line and all headers, with the empty line behind them. `length`: of the body; nothing for a chunked one,
/// which HTTP/1.0 gets unframed, ended by the end of the connection.
std::string response_head(const HttpRequest& request, int status, const HttpHeaders& headers,
                          std::optional<size_t> length, bool keep_alive);

}  // namespace keye::server
