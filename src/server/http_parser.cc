#include "server/http_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/json.h"

namespace keye::server {

namespace http = boost::beast::http;

struct HttpParser::Impl {
  http::request_parser<http::string_body> parser;
};

namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

int status_of(const boost::system::error_code& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  return 400;
}

std::string_view default_type(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

std::optional<std::string> decode_path(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    out.push_back(static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])));
    i += 2;
  }
  return out;
}

HttpResponse error_response(int status, std::string_view message, std::string_view type, std::string_view param,
                            std::string_view code) {
  OrderedJson error = {{"message", message}, {"type", type.empty() ? default_type(status) : type}};
  error["param"] = param.empty() ? OrderedJson() : OrderedJson(param);
  error["code"] = code.empty() ? OrderedJson() : OrderedJson(code);
  HttpResponse response{.status = status, .headers = {{"Content-Type", "application/json"}}, .body = {}};
  response.body = OrderedJson{{"error", std::move(error)}}.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  return response;
}

HttpParser::HttpParser(const HttpParserLimits& limits) : impl_(std::make_unique<Impl>()) {
  impl_->parser.eager(true);
  impl_->parser.header_limit(static_cast<std::uint32_t>(limits.header_bytes_max));
  impl_->parser.body_limit(limits.body_bytes_max);
}
HttpParser::~HttpParser() = default;
HttpParser::HttpParser(HttpParser&&) noexcept = default;
HttpParser& HttpParser::operator=(HttpParser&&) noexcept = default;

HttpParser::State HttpParser::push(std::string& input) {
  while (!input.empty() && (state_ == State::header || state_ == State::body)) {
    started_ = true;
    boost::system::error_code error;
    const size_t used = impl_->parser.put(boost::asio::const_buffer(input.data(), input.size()), error);
    input.erase(0, used);
    if (error && error != http::error::need_more) {
      return fail(status_of(error), fmt::format("malformed HTTP request: {}", error.message()));
    }
    if (state_ == State::header && impl_->parser.is_header_done()) {
      state_ = State::body;
      read_header();
      if (state_ == State::failed) return state_;
    }
    if (impl_->parser.is_done()) state_ = State::done;
    if (used == 0) break;
  }
  return state_;
}

void HttpParser::read_header() {
  const auto& message = impl_->parser.get();
  request_.method = std::string(message.method_string());
  request_.http_1_0 = message.version() < 11;
  request_.keep_alive = message.keep_alive();
  for (const auto& field : message) {
    std::string& value = request_.headers[lower(field.name_string())];
    if (!value.empty()) value += ", ";
    value += std::string_view(field.value());
  }
  const std::string_view target = message.target();
  if (!target.starts_with('/')) {
    fail(400, "the target of a request should be a path");
    return;
  }
  const size_t question = target.find('?');
  const auto path = decode_path(target.substr(0, question));
  if (!path || path->find('\0') != std::string::npos) {
    fail(400, "the path of the request is not well-formed");
    return;
  }
  request_.path = *path;
  if (question != std::string_view::npos) request_.query = std::string(target.substr(question + 1));
  const std::string_view expectation = request_.header("expect");
  if (!expectation.empty() && lower(expectation) != "100-continue") fail(417, "the expectation is not known");
}

std::optional<uint64_t> HttpParser::declared_length() const {
  const auto length = impl_->parser.content_length();
  if (!length) return std::nullopt;
  return *length;
}

bool HttpParser::expects_continue() const { return !request_.header("expect").empty() && !request_.http_1_0; }

size_t HttpParser::body_bytes() const { return impl_->parser.get().body().size(); }

HttpRequest HttpParser::take() {
  request_.body = std::move(impl_->parser.get().body());
  return std::move(request_);
}

HttpParser::State HttpParser::fail(int status, std::string message) {
  refusal_ = error_response(status, message);
  state_ = State::failed;
  return state_;
}

}  // namespace keye::server
