#include "server/transport.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace keye::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

void close_socket(tcp::socket& socket) {
  boost::system::error_code ignored;
  socket.close(ignored);  // NOLINT(bugprone-unused-return-value)
}

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(tcp::socket socket) : socket_(std::move(socket)) {}

  asio::awaitable<bool> handshake() override { co_return true; }
  asio::awaitable<size_t> read_some(asio::mutable_buffer buffer) override {
    const auto [error, bytes] = co_await socket_.async_read_some(buffer, kAwait);
    co_return error ? 0 : bytes;
  }
  asio::awaitable<size_t> write_some(asio::const_buffer buffer) override {
    const auto [error, bytes] = co_await socket_.async_write_some(buffer, kAwait);
    co_return error ? 0 : bytes;
  }
  asio::awaitable<void> shut_down() override {
    boost::system::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);  // NOLINT(bugprone-unused-return-value)
    co_return;
  }
  void close() override { close_socket(socket_); }

 private:
  tcp::socket socket_;
};

class TlsTransport final : public Transport {
 public:
  TlsTransport(tcp::socket socket, asio::ssl::context& context) : stream_(std::move(socket), context) {}

  asio::awaitable<bool> handshake() override {
    const auto [error] = co_await stream_.async_handshake(asio::ssl::stream_base::server, kAwait);
    co_return !error;
  }
  asio::awaitable<size_t> read_some(asio::mutable_buffer buffer) override {
    const auto [error, bytes] = co_await stream_.async_read_some(buffer, kAwait);
    co_return error ? 0 : bytes;
  }
  asio::awaitable<size_t> write_some(asio::const_buffer buffer) override {
    const auto [error, bytes] = co_await stream_.async_write_some(buffer, kAwait);
    co_return error ? 0 : bytes;
  }
  asio::awaitable<void> shut_down() override { co_await stream_.async_shutdown(kAwait); }
  void close() override { close_socket(stream_.next_layer()); }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

}  // namespace

std::unique_ptr<Transport> make_transport(tcp::socket socket) {
  return std::make_unique<PlainTransport>(std::move(socket));
}

std::unique_ptr<Transport> make_tls_transport(tcp::socket socket, asio::ssl::context& context) {
  return std::make_unique<TlsTransport>(std::move(socket), context);
}

}  // namespace keye::server
