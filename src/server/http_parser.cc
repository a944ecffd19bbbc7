#include "server/http_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <iterator>

#include "base/json.h"

namespace keye::server {

namespace http = boost::beast::http;

struct HttpParser::Impl {
  explicit Impl(const HttpParserLimits& given) : limits(given) {
    parser.eager(false);  // until the header is read: what trails a body is not part of it
    parser.header_limit(static_cast<std::uint32_t>(limits.header_bytes_max));
    parser.body_limit(limits.body_bytes_max);
    parser.on_chunk_header(on_chunk);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  HttpParserLimits limits;
  http::request_parser<http::string_body> parser;
  size_t header_bytes = 0;     // that were taken; Beast's own limit is for what it gets at a time
  size_t extension_bytes = 0;  // of all chunks
  /// Nothing reads the extensions of chunks, so that they count neither as header nor as body; but they cost.
  std::function<void(std::uint64_t, boost::beast::string_view, boost::system::error_code&)> on_chunk =
      [this](std::uint64_t, boost::beast::string_view extension, boost::system::error_code& error) {
        extension_bytes += extension.size();
        if (extension_bytes > limits.header_bytes_max) error = http::error::header_limit;
      };
};

namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

/// What of the input, which begins with a line of the header, is header.
std::string_view rest_of_header(std::string_view input) {
  constexpr std::string_view kEnd = "\r\n\r\n";
  if (input.starts_with("\r\n")) return input.substr(0, 2);  // all lines but the empty one were taken before
  const size_t end = input.find(kEnd);
  return end == std::string_view::npos ? input : input.substr(0, end + kEnd.size());
}

/// Whether a line goes on in the next one: obsolete, and read differently by different programs.
bool has_folded_line(std::string_view header) {
  return header.find("\r\n ") != std::string_view::npos || header.find("\r\n\t") != std::string_view::npos;
}

/// Whether a line ends with a line feed alone, which Beast waits behind for a better end.
bool has_bare_line_feed(std::string_view header) {
  for (size_t i = header.find('\n'); i != std::string_view::npos; i = header.find('\n', i + 1)) {
    if (i == 0 || header[i - 1] != '\r') return true;
  }
  return false;
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

HttpParser::HttpParser(const HttpParserLimits& limits) : impl_(std::make_unique<Impl>(limits)) {}
HttpParser::~HttpParser() = default;
HttpParser::HttpParser(HttpParser&&) noexcept = default;
HttpParser& HttpParser::operator=(HttpParser&&) noexcept = default;

HttpParser::State HttpParser::push(std::string& input) {
  while (!input.empty() && (state_ == State::header || state_ == State::body)) {
    started_ = true;
    if (state_ == State::header) {
      const std::string_view header = rest_of_header(input);
      if (has_folded_line(header)) return fail(400, "a line of the header is folded");
      if (has_bare_line_feed(header)) return fail(400, "a line of the header does not end with CR LF");
      if (impl_->header_bytes + header.size() > impl_->limits.header_bytes_max) {
        return fail(431, fmt::format("the header has more than {} bytes", impl_->limits.header_bytes_max));
      }
    }
    boost::system::error_code error;
    const size_t used = impl_->parser.put(boost::asio::const_buffer(input.data(), input.size()), error);
    if (state_ == State::header) impl_->header_bytes += used;
    input.erase(0, used);
    if (error && error != http::error::need_more) {
      return fail(status_of(error), fmt::format("malformed HTTP request: {}", error.message()));
    }
    if (state_ == State::header && impl_->parser.is_header_done()) {
      state_ = State::body;
      read_header();
      impl_->parser.eager(true);
      if (state_ == State::failed) return state_;
    }
    if (impl_->parser.is_done()) state_ = State::done;
    if (used == 0) break;
  }
  // What is left is a line that has no end yet: a header's, which is limited already, or one between two chunks.
  if (state_ == State::body && input.size() > impl_->limits.header_bytes_max) {
    return fail(431, "a chunk's header or the trailers are too long");
  }
  return state_;
}

/// What a proxy in front could read in another way than this server is refused: two readings of where a request ends
/// let one client's bytes become another's request.
std::string HttpParser::ambiguity() const {
  const auto& message = impl_->parser.get();
  const auto hosts = message.equal_range(http::field::host);
  const auto host_count = std::distance(hosts.first, hosts.second);
  if (host_count > 1 || (host_count == 0 && !request_.http_1_0)) return "a request should have one Host";
  const auto coding = request_.headers.find("transfer-encoding");
  if (coding == request_.headers.end()) return {};
  if (request_.headers.contains("content-length")) return "a body should have one length";
  if (request_.http_1_0 || lower(coding->second) != "chunked")
    return "the only Transfer-Encoding is HTTP/1.1's chunked";
  return {};
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
  if (std::string why = ambiguity(); !why.empty()) {
    fail(400, std::move(why));
    return;
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
