// For tests of fetching: a small HTTP server on 127.0.0.1, and names that resolve without any network.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"

namespace keye::media::testing {

/// One connection of a client, answered by hand and closed by the server when its handler returns.
class Exchange {
 public:
  Exchange(int socket, std::string head) : socket_(socket), head_(std::move(head)) {}

  /// The request up to its empty line.
  const std::string& head() const { return head_; }
  /// What the request line asks for.
  std::string target() const {
    const size_t start = head_.find(' ') + 1;
    return head_.substr(start, head_.find(' ', start) - start);
  }
  /// False when the client has gone.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void reply(std::string_view status, std::string_view headers, std::string_view body) const {
    send(fmt::format("HTTP/1.1 {}\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{}", status, headers, body.size(),
                     body));
  }
  void redirect(std::string_view location) const {
    reply("302 Found", fmt::format("Location: {}\r\n", location), "moved");
  }
  /// True when the client stays for that long.
  bool wait_ms(int timeout_ms) const {
    pollfd waited{socket_, POLLIN, 0};
    return ::poll(&waited, 1, timeout_ms) == 0;
  }

 private:
  int socket_;
  std::string head_;
};

/// Answers every connection in a thread of its own.
class Server {
 public:
  using Handler = std::function<void(const Exchange&)>;

  explicit Server(Handler handler) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    KEYE_CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 64) == 0);
    KEYE_CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { accept_all(); });
  }
  ~Server() {
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    {
      const std::scoped_lock lock(mutex_);
      for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
    for (const int socket : sockets_) ::close(socket);
    ::close(listener_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const { return port_; }
  std::string url(std::string_view target, std::string_view host = "127.0.0.1") const {
    return fmt::format("http://{}:{}{}", host, port_, target);
  }
  int connections() const { return connections_; }

 private:
  void accept_all() {
    while (true) {
      const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) return;
      ++connections_;
      const std::scoped_lock lock(mutex_);
      sockets_.push_back(socket);
      threads_.emplace_back([this, socket] { answer(socket); });
    }
  }

  void answer(int socket) const {
    std::string head;
    std::array<char, 4096> buffer{};
    while (head.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), 0);
      if (got <= 0) return;
      head.append(buffer.data(), static_cast<size_t>(got));
      if (head.front() == 0x16) break;  // a TLS greeting, which ends without an empty line
    }
    handler_(Exchange(socket, std::move(head)));
    ::shutdown(socket, SHUT_RDWR);
  }

  Handler handler_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<int> connections_ = 0;
  std::mutex mutex_;
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
  std::thread accepting_;
};

}  // namespace keye::media::testing
