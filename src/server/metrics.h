// What the server tells a Prometheus about itself. The only place that touches the library behind it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/chat_client.h"
#include "server/http_server.h"

namespace keye::server {

/// From any thread.
class Metrics {
 public:
  /// `model`: the value of the label model_name.
  explicit Metrics(const std::string& model);
  ~Metrics();

  struct ReplyNumbers {
    double seconds = 0;
    double queued = 0;
    double vision = 0;
    int64_t prompt_tokens = 0;
    int64_t cached_tokens = 0;
    int64_t tokens = 0;
    std::string_view finish;
  };

  /// A request with pictures has its prompt.
  void observe_media(double seconds);
  void observe_first_token(double seconds);
  void observe_next_token(double seconds);
  void observe_reply(const ReplyNumbers& reply);
  void count_error(std::string_view kind);
  void count_response(std::string_view path, int status);

  /// All of it in Prometheus' text format, with the engine's and the connections' numbers of now.
  std::string text(const engine::EngineStats& engine, const HttpStats& http, const engine::ChatClientStats& chats);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace keye::server
