#include "server/server.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "media/address.h"
#include "server/fields.h"
#include "server/http_parser.h"
#include "server/request_fields.h"

namespace keye::server {
namespace {

/// Larger bodies are parsed on a thread of their own: the server's thread has other connections.
constexpr size_t kParseHereBytes = 64 << 10;
constexpr int kReaderThreads = 2;
/// Of all texts of one request to /tokenize: some seconds of work.
constexpr size_t kTokenizeBytesMax = size_t{16} << 20;
constexpr std::chrono::milliseconds kDrainPoll{20};
constexpr int kLastWordsPolls = 50;

HttpResponse json_response(const OrderedJson& json, int status = 200) {
  return {.status = status, .headers = {{"Content-Type", "application/json"}}, .body = dump(json)};
}

std::string random_hex() {
  std::string text;
  for (const uint8_t byte : random_bytes()) text += fmt::format("{:02x}", byte);
  return text;
}

bool is_loopback(const std::string& host) {
  const auto ip = media::parse_ip(host);
  return host == "localhost" || (ip && media::not_public(*ip) == "loopback");
}

HostRule host_rule(const ServerOptions& options) {
  return {.only_local = is_loopback(options.http.host) && options.keys.keys.empty(), .others = options.allowed_hosts};
}

/// Body fields of /abort_request.
Result<text::Value> body_of(Exchange& exchange) {
  const std::string body = exchange.take_body();
  return parse_body(body);
}

}  // namespace

Server::Server(const ServerOptions& options)
    : options_(options),
      cache_secret_(random_hex()),
      metrics_(options.served_names.front()),
      router_(options.keys, options.cors_origins, host_rule(options)),
      readers_(kReaderThreads, "keye-read") {
  add_routes();
}

Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options) {
  auto server = std::unique_ptr<Server>(new Server(options));
  Server* self = server.get();
  if (options.keys.keys.empty() && options.http.tls.client_ca.empty() && !is_loopback(options.http.host)) {
    log(LogLevel::warning, "there is no API key: whoever reaches {} may ask; see --api-key-file", options.http.host);
  }
  KEYE_TRY(
      server->http_,
      HttpServer::start(options.http,
                        {.screen = [self](const HttpRequest& request) { return self->router_.screen(request); },
                         .handler = [self](std::shared_ptr<Exchange> exchange) { self->router_.handle(exchange); },
                         .headers = [self](const HttpRequest& request) { return self->router_.cors_headers(request); },
                         .ended = [self](const HttpRequest& request,
                                         const ResponseRecord& record) { self->log_response(request, record); }}));
  return server;
}

void Server::follow(std::string leader) {
  leader_ = std::move(leader);
  state_ = State::following;
}

void Server::serve(std::unique_ptr<engine::Engine> engine, const engine::ChatClientOptions& options) {
  engine_ = std::move(engine);
  chats_ = std::make_unique<engine::ChatClient>(*engine_, options);
  state_ = State::ready;
}

void Server::drain(std::chrono::milliseconds timeout, const std::stop_token& hurry) {
  state_ = State::draining;
  http_->drain();
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (http_->stats().answering > 0 && std::chrono::steady_clock::now() < deadline && !hurry.stop_requested()) {
    std::this_thread::sleep_for(kDrainPoll);
  }
}

void Server::stop(engine::FinishReason reason) {
  state_ = State::draining;
  if (!http_ || http_stopped_) return;
  // Only the connections' thread uses the client: it is taken from it there, and ends what is being prepared.
  std::promise<std::unique_ptr<engine::ChatClient>> taken;
  http_->post([this, &taken] { taken.set_value(std::move(chats_)); });
  taken.get_future().get().reset();
  if (engine_) engine_->stop(reason);
  // The last words of the replies are on their way: the connections have a moment to send them.
  for (int i = 0; i < kLastWordsPolls && http_->stats().answering > 0; ++i) std::this_thread::sleep_for(kDrainPoll);
  http_->stop();
  http_stopped_ = true;
}

void Server::log_response(const HttpRequest& request, const ResponseRecord& record) {
  metrics_.count_response(router_.route_path(request), record.status);
  if (!options_.log_requests) return;
  log_event(LogLevel::info, "request",
            {{"id", record.id},
             {"method", request.method},
             {"path", request.path},
             {"status", std::to_string(record.status)},
             {"bytes", std::to_string(record.bytes)},
             {"ms", fmt::format("{:.1f}", record.seconds * 1000)},
             {"complete", record.complete ? "yes" : "no"}});
}

// -- requests for replies ----------------------------------------------------

bool Server::is_ready(Exchange& exchange) const {
  const State state = state_.load();
  if (state == State::ready) return true;
  if (state == State::following) {
    exchange.respond(
        error_response(503, fmt::format("this node only helps: {} answers requests", leader_), {}, {}, "unavailable"));
    return false;
  }
  HttpResponse response =
      error_response(503, state == State::loading ? "the model is being loaded" : "the server is shutting down", {}, {},
                     "unavailable");
  response.headers.emplace_back("Retry-After", state == State::loading ? "5" : "1");
  exchange.respond(std::move(response));
  return false;
}

/// Whoever has the same key. A digest with a secret, so that nobody can choose to be somebody.
std::string Server::tenant(const HttpRequest& request) const {
  Sha256 hash;
  return hash.add_text(cache_secret_).add_text(Router::key_of(request)).finish().hex();
}

RequestRules Server::rules(const HttpRequest& request) const {
  return {.served_names = options_.served_names,
          .generation = engine_->generation(),
          .context_max = engine_->context_max(),
          .timeout = options_.request_timeout,
          .tenant = tenant(request)};
}

void Server::answer(std::shared_ptr<Exchange> exchange, Reader read) {
  if (!is_ready(*exchange)) return;
  const RequestRules request_rules = rules(exchange->request());
  std::string body = exchange->take_body();
  if (body.size() <= kParseHereBytes) return begin(exchange, read(body, request_rules));
  readers_.post([this, exchange, read, request_rules, body = std::move(body)] {
    auto request = std::make_shared<Result<ApiRequest>>(read(body, request_rules));
    exchange->post([this, exchange, request] { begin(exchange, std::move(*request)); });
  });
}

void Server::begin(const std::shared_ptr<Exchange>& exchange, Result<ApiRequest> request) {
  if (!request) {
    metrics_.count_error(error_code_name(request.error().code));
    return exchange->respond(error_response(request.error()));
  }
  if (!is_ready(*exchange)) return;  // it may have begun to drain meanwhile
  const ReplyContext context{.chats = *chats_, .metrics = metrics_, .open = open_};
  std::make_shared<ApiReply>(context, exchange, std::move(request).value())->start();
}

// -- routes ------------------------------------------------------------------

void Server::add_routes() {
  add_api_routes();
  add_tool_routes();
  add_admin_routes();
}

void Server::add_api_routes() {
  const auto replies = [this](const char* path, Reader read) {
    router_.add({"POST", path, Access::key,
                 [this, read](std::shared_ptr<Exchange> exchange) { answer(std::move(exchange), read); }});
  };
  replies("/v1/chat/completions", read_chat_request);
  replies("/v1/completions", read_completion_request);
  replies("/generate", read_generate_request);
  router_.add({"GET", "/v1/models", Access::key, [this](auto exchange) { models(*exchange); }});
  router_.add({"GET", "/v1/models/*", Access::key, [this](auto exchange) { models(*exchange); }});
}

void Server::add_tool_routes() {
  router_.add({"GET", "/health", Access::everybody, [this](auto exchange) { health(*exchange); }});
  router_.add({"GET", "/health_generate", Access::key, [this](auto exchange) { health_generate(exchange); }});
  for (const char* path : {"/tokenize", "/v1/tokenize"}) {
    router_.add({"POST", path, Access::key, [this](auto exchange) { answer_aside(exchange, &Server::tokenize); }});
  }
  for (const char* path : {"/detokenize", "/v1/detokenize"}) {
    router_.add({"POST", path, Access::key, [this](auto exchange) { answer_aside(exchange, &Server::detokenize); }});
  }
  for (const char* path : {"/get_model_info", "/model_info"}) {
    router_.add({"GET", path, Access::key, [this](auto exchange) { model_info(*exchange); }});
  }
  for (const char* path : {"/get_server_info", "/server_info"}) {
    router_.add({"GET", path, Access::key, [this](auto exchange) { server_info(*exchange); }});
  }
  router_.add({"GET", "/metrics", Access::key, [this](auto exchange) {
                 const engine::EngineStats stats = engine_ ? engine_->stats() : engine::EngineStats{};
                 exchange->respond({.status = 200,
                                    .headers = {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                                    .body = metrics_.text(stats, http_->stats(),
                                                          chats_ ? chats_->stats() : engine::ChatClientStats{})});
               }});
  router_.add({"GET", "/openapi.json", Access::key,
               [this](auto exchange) { exchange->respond(json_response(openapi_document(router_.routes()))); }});
}

void Server::add_admin_routes() {
  router_.add({"GET|POST", "/flush_cache", Access::admin, [this](auto exchange) {
                 if (!is_ready(*exchange)) return;
                 chats_->flush_cache();
                 exchange->respond({.status = 200,
                                    .headers = {{"Content-Type", "text/plain; charset=utf-8"}},
                                    .body = "Cache flushed.\n"});
               }});
  router_.add({"POST", "/abort_request", Access::key, [this](auto exchange) {
                 if (is_ready(*exchange)) abort_request(*exchange);
               }});
}

void Server::health(Exchange& exchange) const {
  const State state = state_.load();
  std::string_view status = state == State::loading ? "loading" : (state == State::draining ? "draining" : "ok");
  if (state == State::ready) {
    const engine::EngineStats stats = engine_->stats();
    const bool has_work = stats.running > 0 || stats.waiting > 0;
    if (has_work && stats.seconds_since_step > std::chrono::duration<double>(options_.stuck_after).count())
      status = "stuck";
  }
  exchange.respond(json_response({{"status", status}}, status == "ok" ? 200 : 503));
}

/// One token, through all of the machinery.
void Server::health_generate(std::shared_ptr<Exchange> exchange) {
  if (!is_ready(*exchange)) return;
  ApiRequest request;
  request.shape = {.api = ReplyApi::generate, .model = options_.served_names.front()};
  engine::ChatRequest chat{.source = std::vector<int32_t>{0}, .request = default_request(rules(exchange->request()))};
  chat.request.stop.max_tokens = 1;
  chat.request.priority = 1000;
  chat.request.sampling.temperature = 0;
  request.chats.push_back(std::move(chat));
  begin(exchange, std::move(request));
}

void Server::models(Exchange& exchange) const {
  if (!is_ready(exchange)) return;
  const auto describe = [this](const std::string& name) {
    return OrderedJson{{"id", name},
                       {"object", "model"},
                       {"created", std::chrono::system_clock::to_time_t(started_)},
                       {"owned_by", "keye"},
                       {"root", options_.model_path},
                       {"max_model_len", engine_->context_max()},
                       {"modalities", engine_->config().vision ? OrderedJson{"text", "image"} : OrderedJson{"text"}}};
  };
  constexpr std::string_view kList = "/v1/models";
  const std::string_view path = exchange.request().path;
  if (path.size() > kList.size()) {
    const std::string name(path.substr(kList.size() + 1));
    const auto& names = options_.served_names;
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return exchange.respond(error_response(
          Error{ErrorCode::not_found, fmt::format("there is no model \"{}\"", name.substr(0, 200)), "model"}));
    }
    return exchange.respond(json_response(describe(name)));
  }
  OrderedJson data = OrderedJson::array();
  for (const std::string& name : options_.served_names) data.push_back(describe(name));
  exchange.respond(json_response({{"object", "list"}, {"data", std::move(data)}}));
}

void Server::model_info(Exchange& exchange) const {
  if (!is_ready(exchange)) return;
  const model::ModelConfig& config = engine_->config();
  exchange.respond(json_response({{"model_path", options_.model_path},
                                  {"tokenizer_path", options_.model_path},
                                  {"is_generation", true},
                                  {"architectures", OrderedJson::array({config.architecture})},
                                  {"has_image_understanding", config.vision.has_value()},
                                  {"vocab_size", config.text.vocab},
                                  {"context_length", engine_->context_max()},
                                  {"served_model_names", options_.served_names}}));
}

void Server::server_info(Exchange& exchange) const {
  OrderedJson json = {{"version", options_.version}, {"flags", options_.flags}};
  if (engine_ && state_.load() != State::loading) {
    const engine::EngineStats stats = engine_->stats();
    json["context_length"] = engine_->context_max();
    json["max_total_num_tokens"] = int64_t{stats.pages_total} * ops::kPageTokens;
    json["state"] = {{"running", stats.running},          {"waiting", stats.waiting},
                     {"kv_pages", stats.pages_total},     {"kv_pages_used", stats.pages_used},
                     {"kv_pages_kept", stats.pages_kept}, {"connections", http_->stats().connections}};
  }
  exchange.respond(json_response(json));
}

/// On a reader's thread: the server's own has other connections.
void Server::answer_aside(const std::shared_ptr<Exchange>& exchange, Maker make) {
  if (!is_ready(*exchange)) return;
  readers_.post([this, exchange, make, body = exchange->take_body()] {
    const auto json = (this->*make)(body);
    exchange->post([exchange, response = json ? json_response(*json) : error_response(json.error())] {
      exchange->respond(response);
    });
  });
}

Result<OrderedJson> Server::tokenize(std::string_view body) const {
  const text::Tokenizer& tokenizer = engine_->prompts().tokenizer();
  KEYE_TRY(const text::Value whole, parse_body(body));
  Fields fields(whole.dict());
  KEYE_TRY_VOID(fields.string("model", 1024));
  KEYE_TRY(const auto parse_special, fields.boolean("parse_special"));
  KEYE_TRY(const auto prompt, fields.strings("prompt", kPromptsMax, kTokenizeBytesMax));
  const text::Value* given = fields.find("prompt");
  if (given == nullptr) return fields.wrong("prompt", "is missing");
  KEYE_TRY_VOID(fields.refuse_others());
  size_t bytes = 0;
  for (const std::string& text : prompt) bytes += text.size();
  if (bytes > kTokenizeBytesMax) {
    return Error{ErrorCode::too_large, fmt::format("has {} bytes, at most {} are taken", bytes, kTokenizeBytesMax),
                 "prompt"};
  }
  OrderedJson lists = OrderedJson::array();
  OrderedJson counts = OrderedJson::array();
  for (const std::string& text : prompt) {
    const auto ids = parse_special.value_or(true) ? tokenizer.encode(text) : tokenizer.encode_plain(text);
    counts.push_back(ids.size());
    lists.push_back(ids);
  }
  const bool is_batch = !given->is_string();
  return OrderedJson{{"tokens", is_batch ? lists : lists[0]},
                     {"count", is_batch ? counts : counts[0]},
                     {"max_model_len", engine_->context_max()}};
}

Result<OrderedJson> Server::detokenize(std::string_view body) const {
  const text::Tokenizer& tokenizer = engine_->prompts().tokenizer();
  KEYE_TRY(const text::Value whole, parse_body(body));
  Fields fields(whole.dict());
  KEYE_TRY_VOID(fields.string("model", 1024));
  KEYE_TRY(const auto skip, fields.boolean("skip_special_tokens"));
  const text::Value* given = fields.find("tokens");
  if (given == nullptr || !given->is(text::Kind::list)) return fields.wrong("tokens", "should be a list of token ids");
  OrderedJson texts = OrderedJson::array();
  const bool is_batch = !given->items().empty() && given->items()[0].is(text::Kind::list);
  const auto decode = [&](const text::Value& list) -> Result<void> {
    if (!list.is(text::Kind::list)) return fields.wrong("tokens", "should be a list of token ids, or of such lists");
    text::Dict one;
    one.set("tokens", list);
    Fields inner(one);
    KEYE_TRY(const auto ids, inner.token_ids("tokens", kBodyValuesMax));
    texts.push_back(tokenizer.decode(ids, skip.value_or(true)));
    return {};
  };
  if (!is_batch) {
    KEYE_TRY_VOID(decode(*given));
  } else {
    for (const text::Value& list : given->items()) KEYE_TRY_VOID(decode(list));
  }
  KEYE_TRY_VOID(fields.refuse_others());
  return OrderedJson{{"text", is_batch ? texts : texts[0]}};
}

void Server::abort_request(Exchange& exchange) {
  const bool is_admin = router_.is_allowed(exchange.request(), Access::admin);
  const auto read = [&]() -> Result<std::optional<int>> {
    KEYE_TRY(const text::Value whole, body_of(exchange));
    Fields fields(whole.dict());
    KEYE_TRY(const auto rid, fields.string("rid", 128));
    KEYE_TRY(const auto all, fields.boolean("abort_all"));
    KEYE_TRY_VOID(fields.refuse_others());
    if (all.value_or(false)) return is_admin ? std::optional<int>(open_.abort_all()) : std::nullopt;
    if (!rid || rid->empty()) return fields.wrong("rid", "give the id of a response, or abort_all");
    return std::optional<int>(open_.abort(tenant(exchange.request()), *rid) ? 1 : 0);
  };
  const auto aborted = read();
  if (!aborted) return exchange.respond(error_response(aborted.error()));
  exchange.respond(*aborted ? json_response({{"aborted", **aborted}}) : Router::key_needed(Access::admin));
}

}  // namespace keye::server
