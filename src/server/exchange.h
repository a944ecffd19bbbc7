// One request and its response, as the code that answers it sees the connection.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "server/http_message.h"

namespace keye::server {

/// All but post() and alive() belongs to the server's thread. Either respond() or begin_stream() ... end_stream() is
/// called, once. When the peer goes away, or takes no byte for too long, on_close is called and what is written
/// afterwards is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const HttpRequest& request() const = 0;
  /// Of this request, in logs and in the header X-Request-Id.
  virtual const std::string& id() const = 0;
  /// The bytes of the body may be given away once they are understood: a picture's base64 is long.
  virtual std::string take_body() = 0;
  /// What was made of the body is small now: other requests may have its room.
  virtual void body_done() = 0;

  /// From any thread: runs the task on the server's thread, in the order of the calls.
  virtual void post(std::function<void()> task) = 0;

  virtual void respond(HttpResponse response) = 0;
  /// Then write() any number of times. `ping` is written whenever nothing else was for the server's ping interval.
  virtual void begin_stream(int status, HttpHeaders headers, std::string ping) = 0;
  virtual void write(std::string text) = 0;
  virtual void end_stream() = 0;
  /// Bytes that were written and that the connection has not taken yet.
  virtual size_t backlog() const = 0;
  virtual bool closed() const = 0;

  /// The peer is gone before the response was complete.
  virtual void on_close(std::function<void()> callback) = 0;
  /// The backlog has become empty.
  virtual void on_drain(std::function<void()> callback) = 0;
};

using Handler = std::function<void(std::shared_ptr<Exchange>)>;

}  // namespace keye::server
