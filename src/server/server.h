// keye serve: a model behind HTTP.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/task_pool.h"
#include "engine/chat_client.h"
#include "server/api_reply.h"
#include "server/api_request.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/router.h"

namespace keye::server {

struct ServerOptions {
  HttpServerOptions http;
  ApiKeys keys;
  std::vector<std::string> cors_origins;
  std::vector<std::string> allowed_hosts;  // besides addresses and localhost, for a server that has no keys and listens
                                           // on loopback; "*": any
  std::vector<std::string> served_names;   // at least one
  std::string model_path;
  std::string version;
  std::chrono::milliseconds request_timeout{0};    // of requests that name none; 0: none
  std::chrono::milliseconds stuck_after{300'000};  // a step that takes longer makes the server unhealthy
  bool log_requests = false;
  OrderedJson flags;  // as they were given, for /get_server_info; without secrets
};

/// Listens from the start; until it has a model, it answers that it is loading.
class Server {
 public:
  static Result<std::unique_ptr<Server>> start(const ServerOptions& options);
  /// As stop().
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// For a node that only helps: /health says ok from now on, and requests are sent to `leader` in words.
  void follow(std::string leader);
  /// Ready: requests are answered from now on.
  void serve(std::unique_ptr<engine::Engine> engine, const engine::ChatClientOptions& options);
  /// Not ready any more: new requests are refused, those under way go on. Returns when they are done, the time is over,
  /// or `hurry` is requested.
  void drain(std::chrono::milliseconds timeout, const std::stop_token& hurry);
  /// Ends all that is under way, with this reason, and the threads.
  void stop(engine::FinishReason reason = engine::FinishReason::shutdown);

  uint16_t port() const { return http_->port(); }

 private:
  enum class State : uint8_t { loading, following, ready, draining };

  explicit Server(const ServerOptions& options);
  void add_routes();
  void add_api_routes();
  void add_tool_routes();
  void add_admin_routes();
  /// Answers itself while there is no model to ask; otherwise true.
  bool is_ready(Exchange& exchange) const;
  std::string tenant(const HttpRequest& request) const;
  RequestRules rules(const HttpRequest& request) const;
  using Reader = Result<ApiRequest> (*)(std::string_view body, const RequestRules& rules);
  void answer(std::shared_ptr<Exchange> exchange, Reader read);
  void begin(const std::shared_ptr<Exchange>& exchange, Result<ApiRequest> request);
  void log_response(const HttpRequest& request, const ResponseRecord& record);

  void health(Exchange& exchange) const;
  void health_generate(std::shared_ptr<Exchange> exchange);
  void models(Exchange& exchange) const;
  void model_info(Exchange& exchange) const;
  void server_info(Exchange& exchange) const;
  Result<OrderedJson> tokenize(std::string_view body) const;
  Result<OrderedJson> detokenize(std::string_view body) const;
  using Maker = Result<OrderedJson> (Server::*)(std::string_view body) const;
  void answer_aside(const std::shared_ptr<Exchange>& exchange, Maker make);
  void abort_request(Exchange& exchange);

  ServerOptions options_;
  std::string cache_secret_;  // so that salts of tenants cannot be guessed
  std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  std::atomic<State> state_{State::loading};
  std::string leader_;  // written before the state is `following`
  Metrics metrics_;
  OpenReplies open_;
  bool http_stopped_ = false;
  Router router_;
  // Torn down from the last to the first: whatever may still post to the connections goes before them.
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<engine::ChatClient> chats_;
  TaskPool readers_;  // parse large bodies, and do what else takes long
};

/// The OpenAPI document of the routes.
OrderedJson openapi_document(const std::vector<Route>& routes);

}  // namespace keye::server
