// The only file that includes Boost: its headers take many seconds to compile. Coroutines get pointers and values,
// never references to temporaries, because their frames outlive the calling expression.
#include "loadtest/client.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "loadtest/plan.h"
#include "loadtest/request.h"

namespace keye::loadtest {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
template <class T>
using Task = asio::awaitable<T>;
using Parser = http::response_parser<http::string_body>;

constexpr size_t kReadBytes = 8192;
constexpr size_t kPendingBytesMax = 256 << 10;         // of a header or a chunk's size line
constexpr uint64_t kBodyBytesMax = uint64_t{1} << 28;  // of a whole event stream
constexpr size_t kTextBytesMax = size_t{1} << 20;      // of a reply that is no event stream
constexpr double kTickS = 0.01;
constexpr double kTellS = 0.2;
constexpr double kAfterDoneS = 1;  // for the HTTP message to end once the event stream has

auto with(error_code& failed) { return asio::redirect_error(asio::use_awaitable, failed); }

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double thread_cpu_s() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

Failure failure_of(const error_code& failed, const char* kind) {
  if (failed == beast::error::timeout) return {"timeout", "no whole reply within the time limit"};
  if (failed == http::error::end_of_stream || failed == http::error::partial_message)
    return {"disconnected", "the connection was closed before the reply was whole"};
  if (failed.category() == make_error_code(http::error::bad_chunk).category())
    return {"malformed_stream", "HTTP: " + failed.message()};
  return {kind, failed.message()};
}

/// Where all connections of a test go.
struct Server {
  Url url;
  asio::ip::tcp::resolver::results_type addresses;
  std::unique_ptr<asio::ssl::context> tls;
};

/// A connection, with TLS or without; kept alive between requests.
class Connection {
 public:
  Connection(asio::io_context& io, Server* server) : server_(server), tcp_(io) {
    if (server_->tls) tls_.emplace(tcp_, *server_->tls);
  }

  void expire_at(Clock::time_point time) { tcp_.expires_at(time); }
  void expire_never() { tcp_.expires_never(); }

  Task<error_code> open() {
    error_code failed;
    co_await tcp_.async_connect(server_->addresses, with(failed));
    if (failed) co_return failed;
    error_code ignored;
    tcp_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    if (tls_) {
      SSL_set_tlsext_host_name(tls_->native_handle(), server_->url.host.c_str());
      tls_->set_verify_callback(asio::ssl::host_name_verification(server_->url.host), ignored);
      co_await tls_->async_handshake(asio::ssl::stream_base::client, with(failed));
    }
    co_return failed;
  }

  Task<error_code> write(std::array<asio::const_buffer, 4> parts) {
    error_code failed;
    if (tls_) {
      co_await asio::async_write(*tls_, parts, with(failed));
    } else {
      co_await asio::async_write(tcp_, parts, with(failed));
    }
    co_return failed;
  }

  /// Adds what has arrived, at least a byte, to pending().
  Task<error_code> read() {
    error_code failed;
    const auto space = pending_.prepare(kReadBytes);
    size_t got = 0;
    if (tls_) {
      got = co_await tls_->async_read_some(space, with(failed));
    } else {
      got = co_await tcp_.async_read_some(space, with(failed));
    }
    pending_.commit(got);
    co_return failed;
  }

  beast::flat_buffer& pending() { return pending_; }

 private:
  Server* server_;
  beast::tcp_stream tcp_;
  std::optional<asio::ssl::stream<beast::tcp_stream&>> tls_;
  beast::flat_buffer pending_;
};

/// A response as it arrives: an event stream goes to `reply`, anything else is collected.
struct Response {
  Reply* reply = nullptr;
  int status = 0;
  bool is_stream = false;
  bool keep_alive = false;
  std::string text;

  void head(const Parser& parser) {
    status = static_cast<int>(parser.get().result_int());
    keep_alive = parser.keep_alive();
    const auto type = parser.get()[http::field::content_type];
    is_stream = reply != nullptr && status == 200 && type.starts_with("text/event-stream");
  }
  void body(std::string_view bytes, double now_s) {
    if (is_stream) return reply->push(bytes, now_s);
    text.append(bytes.substr(0, kTextBytesMax - std::min(kTextBytesMax, text.size())));
  }
  void end(double now_s) {
    if (reply == nullptr) return;
    if (is_stream) return reply->end(now_s);
    if (status != 200) return reply->fail({fmt::format("http_{}", status), text});
    reply->fail({"malformed_stream", "not an event stream: " + text});
  }
};

/// Parses what is pending and hands it on. An error, or nothing.
error_code feed(Connection& connection, Parser& parser, Response& response, double now_s) {
  error_code failed;
  beast::flat_buffer& pending = connection.pending();
  while (pending.size() > 0 && !parser.is_done() && !failed) {
    const bool had_head = parser.is_header_done();
    const size_t used = parser.put(pending.data(), failed);
    pending.consume(used);
    if (used == 0 && !failed) failed = http::error::need_more;
    if (!had_head && parser.is_header_done()) response.head(parser);
    std::string& body = parser.get().body();
    if (!body.empty()) response.body(body, now_s);
    body.clear();
  }
  if (failed != http::error::need_more) return failed;
  return pending.size() > kPendingBytesMax ? make_error_code(http::error::header_limit) : error_code();
}

}  // namespace

class Client::Impl {
 public:
  explicit Impl(std::stop_token stop) : stop_(std::move(stop)), on_stop_(stop_, Stopper{this}) {}

  Result<void> look_up(const Config& config);
  Result<std::string> get(std::string_view path, double timeout_s);
  Result<Phase> run(const Config& config, uint64_t first_prompt, const std::vector<std::string>& pictures,
                    const Progress& progress);

 private:
  struct Stopper {
    Impl* impl;
    void operator()() const {
      asio::post(impl->io_, [io = &impl->io_] { io->stop(); });
    }
  };

  /// Runs what was spawned to its end.
  Result<void> finish();
  void spawn(Task<void> task);
  double now_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  Task<void> closed_loop();
  Task<void> open_loop();
  Task<void> watch();
  Task<void> one(Planned planned);
  Task<void> get_text(std::string head, double timeout_s, std::string* text);
  Task<std::optional<Failure>> exchange(std::string head, Body body, double timeout_s, Response* response);
  Task<std::optional<Failure>> receive(Connection* connection, Response* response);

  Server server_;

  // Of the phase under way.
  Config config_;
  uint64_t first_prompt_ = 0;
  const std::vector<std::string>* pictures_ = nullptr;
  Progress progress_;
  Clock::time_point start_ = Clock::now();
  std::optional<Plan> plan_;
  std::optional<LagMeter> lag_;
  Phase phase_;
  int64_t sources_ = 0;  // coroutines that still start requests
  int64_t in_flight_ = 0;

  // Connections go before the context that they belong to; its end destroys the coroutines that a stop left in the
  // middle, and they use what is above.
  asio::io_context io_{1};
  std::vector<std::unique_ptr<Connection>> idle_;
  std::stop_token stop_;
  std::stop_callback<Stopper> on_stop_;
};

Result<void> Client::Impl::look_up(const Config& config) {
  config_ = config;
  KEYE_TRY(server_.url, parse_url(config.base_url));
  error_code failed;
  asio::ip::tcp::resolver resolver(io_);
  server_.addresses = resolver.resolve(server_.url.host, server_.url.port, failed);
  if (failed) return make_error(ErrorCode::unavailable, server_.url.host, "has no address: {}", failed.message());
  if (!server_.url.tls) return {};
  server_.tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  server_.tls->set_default_verify_paths(failed);
  if (!failed) server_.tls->set_verify_mode(asio::ssl::verify_peer, failed);
  if (failed) return make_error(ErrorCode::io, "TLS", "{}", failed.message());
  return {};
}

Result<std::string> Client::Impl::get(std::string_view path, double timeout_s) {
  std::string text;
  spawn(get_text(http_head(config_, server_.url, path, 0), timeout_s, &text));
  KEYE_TRY_VOID(finish());
  return text;
}

Result<Phase> Client::Impl::run(const Config& config, uint64_t first_prompt, const std::vector<std::string>& pictures,
                                const Progress& progress) {
  config_ = config;
  first_prompt_ = first_prompt;
  pictures_ = &pictures;
  progress_ = progress;
  phase_ = {};
  plan_.emplace(config_);
  start_ = Clock::now();
  lag_.emplace(0, kTickS);
  const double cpu_s = thread_cpu_s();
  sources_ = config_.open_loop() ? 1 : config_.concurrency;
  for (int64_t i = 0; i < sources_; ++i) spawn(config_.open_loop() ? open_loop() : closed_loop());
  spawn(watch());
  KEYE_TRY_VOID(finish());
  phase_.generator = {.lag_ms = lag_->summary(), .cpu_share = (thread_cpu_s() - cpu_s) / now_s()};
  return std::move(phase_);
}

Result<void> Client::Impl::finish() {
  if (stop_.stop_requested()) return {};
  try {
    io_.restart();
    io_.run();
    return {};
  } catch (const std::exception& thrown) {
    return Error{ErrorCode::internal, thrown.what(), "load test"};
  }
}

void Client::Impl::spawn(Task<void> task) {
  asio::co_spawn(io_, std::move(task), [](const std::exception_ptr& thrown) {
    if (thrown) std::rethrow_exception(thrown);  // out of io_.run(), to where the file's exceptions end
  });
}

Task<void> Client::Impl::closed_loop() {
  while (true) {
    const std::optional<Planned> planned = plan_->next(now_s());
    if (!planned) break;
    co_await one(*planned);
  }
  --sources_;
}

Task<void> Client::Impl::open_loop() {
  asio::steady_timer timer(io_);
  while (true) {
    const std::optional<Planned> planned = plan_->next(now_s());
    if (!planned) break;
    error_code ignored;
    timer.expires_at(start_ + to_duration(planned->at_s));
    co_await timer.async_wait(with(ignored));
    spawn(one(*planned));
  }
  --sources_;
}

/// Measures the loop's lag and tells the progress until all is done.
Task<void> Client::Impl::watch() {
  asio::steady_timer timer(io_);
  double told_s = 0;
  while (sources_ > 0 || in_flight_ > 0) {
    error_code ignored;
    timer.expires_at(start_ + to_duration(lag_->due_s()));
    co_await timer.async_wait(with(ignored));
    const double now = now_s();
    lag_->wake(now);
    if (now - told_s < kTellS || !progress_) continue;
    told_s = now;
    const std::string total = config_.requests > 0 ? fmt::format(" of {}", config_.requests) : "";
    progress_(fmt::format("{}{} requests, {} failed, {} under way", phase_.tally.ok() + phase_.tally.failed(), total,
                          phase_.tally.failed(), in_flight_));
  }
}

Task<void> Client::Impl::one(Planned planned) {
  phase_.in_flight_max = std::max(phase_.in_flight_max, ++in_flight_);
  const std::string text = prompt_text(config_, first_prompt_ + static_cast<uint64_t>(planned.index));
  std::string_view picture;
  if (planned.image >= 0) picture = (*pictures_)[static_cast<size_t>(planned.image)];
  Body body = make_body(config_, text, picture);
  std::string head = http_head(config_, server_.url, endpoint_path(config_.endpoint), body.size());
  Reply reply(planned.at_s);
  Response response{.reply = &reply};
  std::optional<Failure> failure = co_await exchange(std::move(head), std::move(body), config_.timeout_s, &response);
  if (failure) reply.fail(std::move(*failure));
  const Outcome outcome = reply.take();
  phase_.tally.add(outcome);
  phase_.last_usage = outcome.usage;
  phase_.last_end_s = now_s();
  --in_flight_;
}

Task<void> Client::Impl::get_text(std::string head, double timeout_s, std::string* text) {
  Response response;
  const std::optional<Failure> failure = co_await exchange(std::move(head), Body(), timeout_s, &response);
  if (!failure && response.status == 200) *text = std::move(response.text);
}

/// Sends a request over a kept or a new connection and receives the response. A kept connection that the server has
/// closed meanwhile is replaced once.
Task<std::optional<Failure>> Client::Impl::exchange(std::string head, Body body, double timeout_s, Response* response) {
  const Clock::time_point deadline = Clock::now() + to_duration(timeout_s);
  std::array<asio::const_buffer, 4> parts{asio::buffer(head), asio::buffer(body.head), asio::buffer(body.picture),
                                          asio::buffer(body.tail)};
  for (bool may_reuse = true;; may_reuse = false) {
    std::unique_ptr<Connection> connection;
    const bool reused = may_reuse && !idle_.empty();
    if (reused) {
      connection = std::move(idle_.back());
      idle_.pop_back();
    } else {
      connection = std::make_unique<Connection>(io_, &server_);
    }
    connection->expire_at(deadline);
    if (!reused) {
      const error_code failed = co_await connection->open();
      if (failed) co_return failure_of(failed, "connect");
    }
    const error_code unsent = co_await connection->write(parts);
    if (unsent == beast::error::timeout) co_return failure_of(unsent, "timeout");
    // A server may refuse a request before it has read all of it: what it says counts more than the failed write.
    std::optional<Failure> failure = co_await receive(connection.get(), response);
    if (failure && reused && response->status == 0 && failure->kind == "disconnected") continue;
    if (!failure && !unsent && response->keep_alive && connection->pending().size() == 0) {
      connection->expire_never();
      idle_.push_back(std::move(connection));
    }
    co_return failure;
  }
}

Task<std::optional<Failure>> Client::Impl::receive(Connection* connection, Response* response) {
  Parser parser;
  parser.eager(true);
  parser.body_limit(kBodyBytesMax);
  bool is_over = false;
  while (!parser.is_done()) {
    error_code failed = co_await connection->read();
    const double now = now_s();
    if (failed == asio::error::eof || failed == asio::ssl::error::stream_truncated) {
      response->keep_alive = false;
      failed = {};
      if (parser.is_header_done()) {
        parser.put_eof(failed);
      } else {
        failed = http::error::end_of_stream;
      }
    } else if (!failed) {
      failed = feed(*connection, parser, *response, now);
    }
    if (failed) {
      response->keep_alive = false;
      if (is_over) co_return std::nullopt;
      co_return failure_of(failed, "disconnected");
    }
    if (response->reply == nullptr || is_over) continue;
    if (response->reply->has_failed()) {
      response->keep_alive = false;
      co_return std::nullopt;
    }
    is_over = response->reply->is_over();
    if (is_over) connection->expire_at(Clock::now() + to_duration(kAfterDoneS));
  }
  response->end(now_s());
  co_return std::nullopt;
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::make(const Config& config, std::stop_token stop) {
  auto impl = std::make_unique<Impl>(std::move(stop));
  KEYE_TRY_VOID(impl->look_up(config));
  return Client(std::move(impl));
}

Result<std::string> Client::get(std::string_view path, double timeout_s) { return impl_->get(path, timeout_s); }

Result<Phase> Client::run(const Config& config, uint64_t first_prompt, const std::vector<std::string>& pictures,
                          const Progress& progress) {
  return impl_->run(config, first_prompt, pictures, progress);
}

}  // namespace keye::loadtest
