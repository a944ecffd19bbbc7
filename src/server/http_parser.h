// Bytes of a connection to requests.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/http_message.h"

namespace keye::server {

struct HttpParserLimits {
  size_t header_bytes_max = size_t{16} << 10;
  size_t body_bytes_max = size_t{256} << 20;
};

/// Takes one request, piece by piece.
class HttpParser {
 public:
  enum class State : uint8_t {
    header,  // more of the header is needed
    body,    // the header is there, more of the body is needed
    done,
    failed,  // the connection is of no more use
  };

  explicit HttpParser(const HttpParserLimits& limits);
  ~HttpParser();
  HttpParser(HttpParser&&) noexcept;
  HttpParser& operator=(HttpParser&&) noexcept;

  /// Takes bytes off the front of `input`: all up to the end of the request, or to a line that is not whole yet. May be
  /// called again as long as the state is `header` or `body`, when there are more bytes behind those that it left.
  State push(std::string& input);
  State state() const { return state_; }
  /// Whether any byte of the request has come.
  bool started() const { return started_; }
  /// From `body` on: everything but the body.
  const HttpRequest& header() const { return request_; }
  /// From `body` on: the length that the header declares, if it does.
  std::optional<uint64_t> declared_length() const;
  /// Whether the client waits for "100 Continue" before it sends the body.
  bool expects_continue() const;
  /// Bytes of the body so far.
  size_t body_bytes() const;
  /// In `done`: the request.
  HttpRequest take();
  /// In `failed`: what to answer.
  const HttpResponse& refusal() const { return refusal_; }

 private:
  struct Impl;

  void read_header();
  std::string ambiguity() const;
  State fail(int status, std::string message);

  std::unique_ptr<Impl> impl_;
  State state_ = State::header;
  bool started_ = false;
  HttpRequest request_;
  HttpResponse refusal_;
};

/// %XX to bytes. Nothing if it is malformed.
std::optional<std::string> decode_path(std::string_view text);

/// {"error": {"message", "type", "param", "code"}}, as OpenAI's API answers.
HttpResponse error_response(int status, std::string_view message, std::string_view type = {},
                            std::string_view param = {}, std::string_view code = {});

}  // namespace keye::server
