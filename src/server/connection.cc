#include "server/connection.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/hash.h"

namespace keye::server {

namespace asio = boost::asio;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 << 10;
/// Input that may lie there unparsed: requests that were sent before the last one was answered.
constexpr size_t kInputBytesMax = 64 << 10;
constexpr std::chrono::seconds kLinger{1};

std::string new_id() {
  const auto bytes = random_bytes();
  std::string text = "req-";
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

/// The client's own X-Request-Id, if nothing in it could do harm in a header or a log.
std::string id_of(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id");
  const bool is_harmless = !given.empty() && given.size() <= 128 && std::all_of(given.begin(), given.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.';
  });
  return is_harmless ? std::string(given) : new_id();
}

}  // namespace

class Connection::HttpExchange final : public Exchange, public std::enable_shared_from_this<HttpExchange> {
 public:
  HttpExchange(std::shared_ptr<Connection> connection, HttpRequest request)
      : io_(connection->io_), connection_(std::move(connection)), request_(std::move(request)), id_(id_of(request_)) {}

  const HttpRequest& request() const override { return request_; }
  const std::string& id() const override { return id_; }
  std::string take_body() override { return std::move(request_.body); }
  void body_done() override {
    if (!closed_) connection_->release_body();
  }
  void post(std::function<void()> task) override {
    asio::post(io_, [self = shared_from_this(), task = std::move(task)] { task(); });
  }

  void respond(HttpResponse response) override {
    record_.status = response.status;
    add_headers(response.headers);
    const bool has_body = request_.method != "HEAD" && response.status != 204;
    append(response_head(request_, response.status, response.headers, response.body.size(), keep_alive()));
    if (has_body) append(response.body);
    finish();
  }

  void begin_stream(int status, HttpHeaders headers, std::string ping) override {
    record_.status = status;
    add_headers(headers);
    ping_ = std::move(ping);
    streams_ = true;
    if (request_.http_1_0) keep_alive_ = false;  // its end is the end of the body
    append(response_head(request_, status, headers, std::nullopt, keep_alive()));
  }

  void write(std::string text) override {
    if (text.empty()) return;
    if (request_.http_1_0) return append(text);
    append(fmt::format("{:x}\r\n", text.size()));
    append(text);
    append("\r\n");
  }

  void end_stream() override {
    if (!request_.http_1_0) append("0\r\n\r\n");
    finish();
  }

  size_t backlog() const override { return output_.size() + sending_; }
  bool closed() const override { return closed_; }
  void on_close(std::function<void()> callback) override {
    on_close_ = std::move(callback);
    if (closed_ && on_close_) std::exchange(on_close_, nullptr)();
  }
  void on_drain(std::function<void()> callback) override { on_drain_ = std::move(callback); }

  // For the connection.
  const ResponseRecord& record() {
    record_.id = id_;
    record_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    record_.complete = finished_ && backlog() == 0;
    return record_;
  }
  bool keep_alive() const { return keep_alive_ && request_.keep_alive && !connection_->shared_.draining; }
  bool finished() const { return finished_; }
  bool has_output() const { return !output_.empty(); }
  bool streams() const { return streams_; }
  std::string take_output() {
    sending_ = output_.size();
    return std::exchange(output_, {});
  }
  void sent(size_t bytes) {
    sending_ -= std::min(sending_, bytes);
    record_.bytes += bytes;
    if (backlog() == 0 && on_drain_) on_drain_();
  }
  void ping() { write(ping_); }
  bool pings() const { return streams_ && !finished_ && !ping_.empty(); }
  /// The peer is gone, or the response complete.
  void detach() {
    const bool early = !finished_;
    closed_ = true;
    output_.clear();
    on_drain_ = nullptr;
    const auto callback = std::exchange(on_close_, nullptr);
    if (early && callback) callback();
  }

 private:
  void append(std::string_view text) {
    if (closed_ || finished_) return;
    output_ += text;
    if (output_.size() > connection_->shared_.limits.backlog_bytes_max) {
      connection_->close();
      return;
    }
    connection_->output_event_.cancel();
  }
  void finish() {
    finished_ = true;
    connection_->output_event_.cancel();
  }
  void add_headers(HttpHeaders& headers) const {
    headers.emplace_back("X-Request-Id", id_);
    for (auto& header : connection_->shared_.hooks.headers(request_)) headers.push_back(std::move(header));
  }

  asio::io_context& io_;
  std::shared_ptr<Connection> connection_;
  HttpRequest request_;
  std::string id_;
  Clock::time_point start_ = Clock::now();
  ResponseRecord record_;
  std::string output_;
  size_t sending_ = 0;
  std::string ping_;
  bool streams_ = false;
  bool keep_alive_ = true;
  bool finished_ = false;
  bool closed_ = false;
  std::function<void()> on_close_;
  std::function<void()> on_drain_;
};

Connection::Connection(asio::io_context& io, std::unique_ptr<Transport> transport, ConnectionShared& shared)
    : io_(io),
      transport_(std::move(transport)),
      shared_(shared),
      input_event_(io),
      room_event_(io),
      output_event_(io),
      write_timer_(io) {}

Connection::~Connection() = default;

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  transport_->close();
  input_ended();
  output_event_.cancel();
  write_timer_.cancel();
}

void Connection::drain() {
  if (!exchange_ && !reading_request_) close();
}

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  write_timer_.expires_after(shared_.limits.header_timeout);
  write_timer_.async_wait([self](boost::system::error_code error) {
    if (!error) self->close();
  });
  const bool is_open = co_await transport_->handshake();
  write_timer_.cancel();
  if (is_open && !closed_) {
    asio::co_spawn(io_, pump(), asio::detached);
    bool goes_on = true;
    while (goes_on && !closed_) {
      std::optional<HttpRequest> request = co_await read_request();
      if (!request) break;
      goes_on = co_await answer(std::move(*request));
      release_body();
    }
    if (!closed_) co_await linger();
  }
  release_body();
  close();
}

void Connection::release_body() { shared_.body_bytes -= std::exchange(counted_body_bytes_, 0); }

// -- reading -----------------------------------------------------------------

/// Reads ahead all the time, so that a peer that goes away is noticed while its request is being answered.
asio::awaitable<void> Connection::pump() {
  const auto self = shared_from_this();
  std::vector<char> buffer(kReadBytes);
  while (!closed_) {
    const size_t bytes = co_await transport_->read_some(asio::buffer(buffer));
    if (bytes == 0) break;
    if (!discard_input_) input_.append(buffer.data(), bytes);
    input_event_.cancel();
    while (!closed_ && input_.size() >= kInputBytesMax) {
      room_event_.expires_at(Clock::time_point::max());
      co_await room_event_.async_wait(kAwait);
    }
  }
  input_ended();
}

void Connection::input_ended() {
  input_ended_ = true;
  input_event_.cancel();
  room_event_.cancel();
  if (exchange_ && !exchange_->finished()) {
    exchange_->detach();
    output_event_.cancel();
  }
}

/// For more than the bytes that are known: those that the parser left wait for the rest of their line.
asio::awaitable<bool> Connection::wait_for_input(size_t known, Clock::time_point deadline) {
  while (input_.size() <= known && !input_ended_ && !closed_) {
    if (Clock::now() >= deadline) co_return false;
    input_event_.expires_at(deadline);
    co_await input_event_.async_wait(kAwait);
  }
  co_return input_.size() > known && !closed_;
}

asio::awaitable<std::optional<HttpRequest>> Connection::read_request() {
  reading_request_ = false;
  input_.shrink_to_fit();
  if (!co_await wait_for_input(0, Clock::now() + shared_.limits.idle_timeout)) co_return std::nullopt;
  reading_request_ = true;
  const Clock::time_point deadline = Clock::now() + shared_.limits.header_timeout;
  HttpParser parser({shared_.limits.header_bytes_max, shared_.limits.body_bytes_max});
  size_t known = 0;
  while (parser.state() == HttpParser::State::header) {
    if (!co_await wait_for_input(known, deadline)) {
      if (input_ended_ || closed_) co_return std::nullopt;
      const HttpRequest unread;
      HttpResponse late = error_response(408, "the header of the request did not come in time");
      co_await refuse(unread, late);
      co_return std::nullopt;
    }
    parser.push(input_);
    known = input_.size();
    room_event_.cancel();
  }
  if (parser.state() == HttpParser::State::failed) {
    HttpResponse refusal = parser.refusal();
    co_await refuse(parser.header(), refusal);
    co_return std::nullopt;
  }
  if (std::optional<HttpResponse> refusal = shared_.hooks.screen(parser.header())) {
    const bool complete = parser.state() == HttpParser::State::done;
    if (!complete) {
      co_await refuse(parser.header(), *refusal);
      co_return std::nullopt;
    }
  }
  co_return co_await read_body(std::move(parser), known);
}

asio::awaitable<std::optional<HttpRequest>> Connection::read_body(HttpParser parser, size_t known) {
  const Clock::time_point deadline = Clock::now() + shared_.limits.body_timeout;
  if (parser.state() == HttpParser::State::body && parser.expects_continue()) {
    std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!co_await send(std::move(go_on))) co_return std::nullopt;
  }
  while (parser.state() == HttpParser::State::body) {
    const size_t before = counted_body_bytes_;
    counted_body_bytes_ = std::max<size_t>(parser.body_bytes(), parser.declared_length().value_or(0));
    shared_.body_bytes += counted_body_bytes_ - before;
    if (shared_.body_bytes > shared_.limits.all_bodies_bytes_max) {
      HttpResponse busy = error_response(503, "the requests that are being received are too large together");
      busy.headers.emplace_back("Retry-After", "1");
      co_await refuse(parser.header(), busy);
      co_return std::nullopt;
    }
    if (!co_await wait_for_input(known, deadline)) {
      if (input_ended_ || closed_) co_return std::nullopt;
      HttpResponse late = error_response(408, "the body of the request did not come in time");
      co_await refuse(parser.header(), late);
      co_return std::nullopt;
    }
    parser.push(input_);
    known = input_.size();
    room_event_.cancel();
  }
  if (parser.state() == HttpParser::State::failed) {
    HttpResponse refusal = parser.refusal();
    co_await refuse(parser.header(), refusal);
    co_return std::nullopt;
  }
  co_return parser.take();
}

/// An answer before the request was read to its end; the connection ends with it.
/// Takes no temporaries: GCC 12 destroys those of an awaited call twice.
asio::awaitable<bool> Connection::refuse(const HttpRequest& request, HttpResponse& response) {
  for (auto& header : shared_.hooks.headers(request)) response.headers.push_back(std::move(header));
  ResponseRecord record{.id = id_of(request), .status = response.status, .bytes = response.body.size()};
  response.headers.emplace_back("X-Request-Id", record.id);
  std::string text = response_head(request, response.status, response.headers, response.body.size(), false);
  if (request.method != "HEAD") text += response.body;
  record.complete = co_await send(std::move(text));
  shared_.hooks.ended(request, record);
  co_return record.complete;
}

// -- answering ---------------------------------------------------------------

asio::awaitable<bool> Connection::answer(HttpRequest request) {
  exchange_ = std::make_shared<HttpExchange>(shared_from_this(), std::move(request));
  const std::shared_ptr<HttpExchange> exchange = exchange_;
  ++shared_.answering;
  shared_.hooks.handler(exchange);
  while (!closed_) {
    if (exchange->has_output()) {
      std::string output = exchange->take_output();
      if (!co_await send(std::move(output))) break;
      continue;
    }
    if (exchange->finished() || exchange->closed()) break;
    if (exchange->pings()) {
      output_event_.expires_after(shared_.limits.ping_interval);
    } else {
      output_event_.expires_at(Clock::time_point::max());
    }
    const auto [error] = co_await output_event_.async_wait(kAwait);
    if (!error && exchange->pings()) exchange->ping();
  }
  const bool goes_on = exchange->finished() && exchange->keep_alive() && !input_ended_ && !closed_;
  exchange_.reset();
  exchange->detach();
  --shared_.answering;
  shared_.hooks.ended(exchange->request(), exchange->record());
  co_return goes_on;
}

/// False: the peer is gone, or took nothing for too long.
asio::awaitable<bool> Connection::send(std::string text) {
  const auto self = shared_from_this();
  size_t done = 0;
  while (done < text.size() && !closed_) {
    write_timer_.expires_after(shared_.limits.write_timeout);
    write_timer_.async_wait([self](boost::system::error_code error) {
      if (!error) self->close();
    });
    const size_t bytes = co_await transport_->write_some(asio::buffer(text.data() + done, text.size() - done));
    write_timer_.cancel();
    if (bytes == 0) {
      close();
      break;
    }
    done += bytes;
    if (exchange_) exchange_->sent(bytes);
  }
  co_return done == text.size();
}

/// Lets the peer read what was written: closing at once, with input unread, would take it away again.
asio::awaitable<void> Connection::linger() {
  discard_input_ = true;
  input_.clear();
  room_event_.cancel();
  const auto self = shared_from_this();
  write_timer_.expires_after(kLinger);
  write_timer_.async_wait([self](boost::system::error_code error) {
    if (!error) self->close();
  });
  co_await transport_->shut_down();
  while (!input_ended_ && !closed_) {
    input_event_.expires_at(Clock::time_point::max());
    co_await input_event_.async_wait(kAwait);
  }
  write_timer_.cancel();
}

}  // namespace keye::server
