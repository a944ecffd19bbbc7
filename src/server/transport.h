// A connection's bytes, plain or over TLS: the only difference between the two that the rest sees.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <memory>

namespace keye::server {

/// One read and one write may be under way at the same time. All errors end a connection.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual boost::asio::awaitable<bool> handshake() = 0;
  /// Bytes read; 0 at the end or after an error.
  virtual boost::asio::awaitable<size_t> read_some(boost::asio::mutable_buffer buffer) = 0;
  /// Bytes written; 0 after an error.
  virtual boost::asio::awaitable<size_t> write_some(boost::asio::const_buffer buffer) = 0;
  /// Tells the peer that nothing more comes, as far as that can be done.
  virtual boost::asio::awaitable<void> shut_down() = 0;
  /// Ends everything that is under way.
  virtual void close() = 0;
};

std::unique_ptr<Transport> make_transport(boost::asio::ip::tcp::socket socket);
std::unique_ptr<Transport> make_tls_transport(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context& context);

}  // namespace keye::server
