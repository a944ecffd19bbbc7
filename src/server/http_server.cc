#include "server/http_server.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <thread>

#include "base/log.h"
#include "server/connection.h"

namespace keye::server {

namespace asio = boost::asio;
using asio::ip::tcp;

class HttpServer::Impl {
 public:
  Impl(const HttpServerOptions& options, HttpHooks hooks)
      : options_(options), acceptor_(io_), pause_(io_), work_(asio::make_work_guard(io_)) {
    shared_.limits = options.limits;
    shared_.hooks = std::move(hooks);
  }

  Result<void> open_tls();
  Result<void> listen();
  void start() {
    asio::co_spawn(io_, accept(), asio::detached);
    thread_ = std::thread([this] {
      ::pthread_setname_np(::pthread_self(), "keye-http");
      io_.run();
    });
  }
  void drain() {
    asio::post(io_, [this] {
      shared_.draining = true;
      for (const auto& connection : connections()) connection->drain();
    });
  }
  void stop() {
    if (!thread_.joinable()) return;
    asio::post(io_, [this] {
      close_acceptor();
      for (const auto& connection : connections()) connection->close();
      // What the closed connections still have to do comes first.
      asio::post(io_, [this] { io_.stop(); });
    });
    thread_.join();
  }
  void post(std::function<void()> task) { asio::post(io_, std::move(task)); }
  uint16_t port() const { return port_; }
  HttpStats stats() const { return {count_.load(), shared_.answering.load(), accepted_.load(), refused_.load()}; }

 private:
  asio::awaitable<void> accept();
  void serve(tcp::socket socket);
  void close_acceptor() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);  // NOLINT(bugprone-unused-return-value)
  }
  std::vector<std::shared_ptr<Connection>> connections() {
    std::vector<std::shared_ptr<Connection>> alive;
    for (const auto& [address, weak] : connections_) {
      if (auto connection = weak.lock()) alive.push_back(std::move(connection));
    }
    return alive;
  }

  HttpServerOptions options_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::optional<asio::ssl::context> tls_;
  ConnectionShared shared_;
  std::map<const Connection*, std::weak_ptr<Connection>> connections_;
  uint16_t port_ = 0;
  std::atomic<int> count_{0};
  std::atomic<uint64_t> accepted_{0}, refused_{0};
  std::thread thread_;
};

Result<void> HttpServer::Impl::open_tls() {
  const TlsFiles& files = options_.tls;
  if (files.certificate.empty()) return {};
  tls_.emplace(asio::ssl::context::tls_server);
  boost::system::error_code error;
  const auto failed = [&](std::string_view flag, const std::string& file) {
    return make_error(ErrorCode::invalid_argument, flag, "{}: {}", file, error.message());
  };
  tls_->set_options(asio::ssl::context::no_sslv2 | asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                        asio::ssl::context::no_tlsv1_1,
                    error);
  // Idle connections give their buffers back.
  ::SSL_CTX_set_mode(tls_->native_handle(), SSL_MODE_RELEASE_BUFFERS);
  tls_->set_password_callback(
      [password = files.password](size_t, asio::ssl::context::password_purpose) { return password; }, error);
  tls_->use_certificate_chain_file(files.certificate, error);
  if (error) return failed("--ssl-certfile", files.certificate);
  tls_->use_private_key_file(files.key, asio::ssl::context::pem, error);
  if (error) return failed("--ssl-keyfile", files.key);
  if (!files.client_ca.empty()) {
    tls_->load_verify_file(files.client_ca, error);
    if (error) return failed("--ssl-ca-certs", files.client_ca);
    tls_->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, error);
  }
  return {};
}

Result<void> HttpServer::Impl::listen() {
  const std::string where = fmt::format("{}:{}", options_.host, options_.port);
  const auto failed = [&](const boost::system::error_code& error) {
    return make_error(ErrorCode::io, where, "cannot listen: {}", error.message());
  };
  boost::system::error_code error;
  tcp::resolver resolver(io_);
  const auto found = resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, error);
  if (error) return failed(error);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), error);
  if (error) return failed(error);
  acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  acceptor_.bind(endpoint, error);
  if (error) return failed(error);
  acceptor_.listen(1024, error);
  if (error) return failed(error);
  port_ = acceptor_.local_endpoint(error).port();
  return {};
}

asio::awaitable<void> HttpServer::Impl::accept() {
  while (acceptor_.is_open()) {
    auto [error, socket] = co_await acceptor_.async_accept(asio::as_tuple(asio::use_awaitable));
    if (error == asio::error::operation_aborted) break;
    if (error) {
      // Out of descriptors, most likely: some will come back.
      log(LogLevel::warning, "cannot accept a connection: {}", error.message());
      pause_.expires_after(std::chrono::milliseconds(100));
      co_await pause_.async_wait(asio::as_tuple(asio::use_awaitable));
      continue;
    }
    ++accepted_;
    if (count_.load() >= shared_.limits.connections_max) {
      ++refused_;
      continue;
    }
    serve(std::move(socket));
  }
}

void HttpServer::Impl::serve(tcp::socket socket) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);  // NOLINT(bugprone-unused-return-value)
  auto transport = tls_ ? make_tls_transport(std::move(socket), *tls_) : make_transport(std::move(socket));
  const auto connection = std::make_shared<Connection>(io_, std::move(transport), shared_);
  connections_[connection.get()] = connection;
  ++count_;
  asio::co_spawn(io_, connection->run(), [this, key = connection.get()](std::exception_ptr) {
    connections_.erase(key);
    --count_;
  });
}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpServerOptions& options, HttpHooks hooks) {
  auto impl = std::make_unique<Impl>(options, std::move(hooks));
  KEYE_TRY_VOID(impl->open_tls());
  KEYE_TRY_VOID(impl->listen());
  impl->start();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { stop(); }
uint16_t HttpServer::port() const { return impl_->port(); }
HttpStats HttpServer::stats() const { return impl_->stats(); }
void HttpServer::post(std::function<void()> task) { impl_->post(std::move(task)); }
void HttpServer::drain() { impl_->drain(); }
void HttpServer::stop() { impl_->stop(); }

}  // namespace keye::server
