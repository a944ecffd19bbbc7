// The connections of a server: HTTP/1.1 with keep-alive, plain or over TLS, under limits of bytes, time and number.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "server/exchange.h"

namespace keye::server {

struct TlsFiles {
  std::string certificate;  // PEM, with the chain; empty: no TLS
  std::string key;          // PEM
  std::string password;     // of the key
  std::string client_ca;    // PEM: clients must show a certificate that one of these has signed; empty: they need none
};

struct HttpLimits {
  size_t header_bytes_max = size_t{16} << 10;
  size_t body_bytes_max = size_t{256} << 20;
  int connections_max = 4096;
  std::chrono::milliseconds header_timeout{10'000};  // from a request's first byte to the end of its header
  std::chrono::milliseconds body_timeout{120'000};   // for the whole body
  std::chrono::milliseconds idle_timeout{75'000};    // between two requests of a connection
  std::chrono::milliseconds write_timeout{60'000};   // without the peer taking a byte
  std::chrono::milliseconds ping_interval{15'000};
  size_t all_bodies_bytes_max = size_t{2} << 30;  // of all requests that are being read and understood
  size_t backlog_bytes_max = size_t{64} << 20;    // of a response that its reader does not take: the connection ends
};

/// How a response went.
struct ResponseRecord {
  std::string id;
  int status = 0;
  size_t bytes = 0;
  double seconds = 0;
  bool complete = false;  // the peer has it all
};

/// What a server asks and tells, on its own thread; none of it may wait.
struct HttpHooks {
  /// Looks at a request when its header is there and its body is not: a refusal ends the connection before the body
  /// costs anything.
  std::function<std::optional<HttpResponse>(const HttpRequest& header)> screen;
  /// Called for every request that is well-formed.
  Handler handler;
  /// Headers of every response to this request.
  std::function<HttpHeaders(const HttpRequest&)> headers;
  /// The response is sent, or cannot be.
  std::function<void(const HttpRequest&, const ResponseRecord&)> ended;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 30000;  // 0: any that is free
  TlsFiles tls;
  HttpLimits limits;
};

/// Numbers of what is going on, from any thread.
struct HttpStats {
  int connections = 0;
  int answering = 0;  // requests whose responses are not sent yet
  uint64_t accepted = 0;
  uint64_t refused = 0;  // over connections_max
};

class HttpServer {
 public:
  /// Listens and serves on a thread of its own. Errors: io (the address is taken or unknown), invalid_argument (TLS
  /// files).
  static Result<std::unique_ptr<HttpServer>> start(const HttpServerOptions& options, HttpHooks hooks);
  /// As stop().
  ~HttpServer();

  uint16_t port() const;
  HttpStats stats() const;
  /// From any thread: runs the task on the server's thread.
  void post(std::function<void()> task);
  /// From now on a connection ends after its response, and those between two requests end now.
  void drain();
  /// Closes everything and ends the thread.
  void stop();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace keye::server
