// One connection: requests in, one after another, each answered before the next is looked at.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <vector>

#include "server/exchange.h"
#include "server/http_parser.h"
#include "server/http_server.h"
#include "server/transport.h"

namespace keye::server {

/// What all connections of a server share. On the server's thread only.
struct ConnectionShared {
  HttpLimits limits;
  HttpHooks hooks;
  size_t body_bytes = 0;          // of the requests that are being read and understood, all connections together
  std::atomic<int> answering{0};  // read by other threads
  bool draining = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::io_context& io, std::unique_ptr<Transport> transport, ConnectionShared& shared);
  ~Connection();

  /// Serves until the connection ends.
  boost::asio::awaitable<void> run();
  /// Ends it at once.
  void close();
  /// Ends it now if it is between two requests, and otherwise after the response.
  void drain();

 private:
  class HttpExchange;
  using Clock = std::chrono::steady_clock;

  boost::asio::awaitable<void> pump();
  boost::asio::awaitable<bool> wait_for_input(size_t known, Clock::time_point deadline);
  /// The next request; nothing if the connection should end.
  boost::asio::awaitable<std::optional<HttpRequest>> read_request();
  boost::asio::awaitable<std::optional<HttpRequest>> read_body(HttpParser parser, size_t known);
  boost::asio::awaitable<bool> refuse(const HttpRequest& request, HttpResponse& response);
  boost::asio::awaitable<bool> answer(HttpRequest request);
  boost::asio::awaitable<bool> send(std::string text);
  boost::asio::awaitable<void> linger();
  void input_ended();
  void release_body();

  boost::asio::io_context& io_;
  std::unique_ptr<Transport> transport_;
  ConnectionShared& shared_;
  boost::asio::steady_timer input_event_;  // expires or is cancelled: there is input, room for it, or none any more
  boost::asio::steady_timer room_event_;
  boost::asio::steady_timer output_event_;  // there is something to write, or it is time for a ping
  boost::asio::steady_timer write_timer_;
  std::string input_;
  bool input_ended_ = false;
  bool discard_input_ = false;
  bool closed_ = false;
  bool reading_request_ = false;  // some of it has come
  size_t counted_body_bytes_ = 0;
  std::shared_ptr<HttpExchange> exchange_;
};

}  // namespace keye::server
