#include <atomic>
#include <cstdlib>
#include <functional>
#include <optional>

#include "base/log.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/serve_flags.h"
#include "cli/serve_part.h"

namespace keye::cli {
namespace {

std::string url_of(const ServeFlags& flags, int port) {
  const bool is_v6 = flags.host.find(':') != std::string::npos;
  return fmt::format("{}://{}:{}", flags.tls.certificate.empty() ? "http" : "https",
                     is_v6 ? "[" + flags.host + "]" : flags.host, port);
}

Result<server::ServerOptions> server_options(const ServeFlags& flags, const Path& folder) {
  server::ServerOptions options;
  options.http.host = flags.host;
  options.http.port = static_cast<uint16_t>(flags.port);
  options.http.tls = flags.tls;
  options.http.limits = flags.http_limits();
  KEYE_TRY(options.keys, flags.keys());
  options.cors_origins = flags.cors_origins;
  options.allowed_hosts = flags.allowed_hosts;
  options.served_names = flags.served_names;
  if (options.served_names.empty()) options.served_names = {folder.filename().string()};
  options.model_path = folder.string();
  options.version = KEYE_VERSION;
  options.request_timeout = to_ms(flags.request_timeout_s);
  options.stuck_after = to_ms(flags.watchdog_timeout_s);
  options.log_requests = flags.log_requests;
  options.flags = flags.shown();
  return options;
}

engine::EngineOptions engine_options(const ServeFlags& flags, const Path& folder, int64_t tokens) {
  return {.kv_tokens = tokens,
          .context_max = flags.context_length,
          .running_max = flags.max_running,
          .queued_max = flags.max_queued,
          .chunk_tokens = flags.chunked_prefill,
          .prefix_cache = !flags.disable_radix_cache,
          .vision_cache_bytes = static_cast<size_t>(flags.vision_cache_mib) << 20,
          .model_identity = folder.string()};
}

/// Stopped by the user, or as a rank is lost.
class End {
 public:
  explicit End(const std::stop_token& user) : on_user_(user, [this] { either_.request_stop(); }) {}

  /// From any thread.
  void lose() {
    is_lost_ = true;
    either_.request_stop();
  }
  bool is_lost() const { return is_lost_; }
  std::stop_token token() const { return either_.get_token(); }

 private:
  std::stop_source either_;
  std::atomic<bool> is_lost_{false};
  std::stop_callback<std::function<void()>> on_user_;
};

/// `command`: as it was given, for this node's other ranks.
Result<int> serve(const ServeFlags& flags, std::vector<std::string> command) {
  const StopTokens stop = stop_tokens();  // before any thread starts, so that all leave the signals to it
  KEYE_TRY_VOID(flags.check());
  KEYE_TRY(const Path folder, model_folder(flags.model));
  set_log_sink(flags.log_format == "json" ? log_as_json : log_as_text);
  for (const std::string& line : flags.without_effect()) log_event(LogLevel::info, line);

  End end(stop.first);
  std::unique_ptr<RankProcess> ranks;  // outlives the engine in the server
  KEYE_TRY(const auto options, server_options(flags, folder));
  KEYE_TRY(const auto server, server::Server::start(options));
  const std::string url = url_of(flags, server->port());
  log(LogLevel::info, "listening at {}; loading {}", url, folder.string());

  // Nothing is under way before the model is there, so nobody has to wait for it. The destructor waits for the
  // callback.
  std::optional<std::stop_callback<std::function<void()>>> stops_loading(std::in_place, stop.first, [&server] {
    log(LogLevel::info, "stopped while loading");
    server->stop();
    std::_Exit(kExitOk);
  });
  if (flags.ranks.is_spread()) {
    KEYE_TRY(ranks, start_serving_ranks(flags, folder, std::move(command), [&end] { end.lose(); }));
    if (ranks->place().rank != 0) {
      stops_loading.emplace(stop.first, [&ranks] { ranks->give_up("it was told to stop"); });
      const auto code = serve_part(flags, folder, *ranks, server.get());
      return stop.first.stop_requested() ? kExitOk : code;
    }
  }
  KEYE_TRY(LoadedPart part, load_part(flags, folder, ranks.get()));
  const int64_t tokens = part.kv_tokens;
  auto engine = std::make_unique<engine::Engine>(std::move(part.loaded), engine_options(flags, folder, tokens));
  const int64_t context = engine->context_max();
  stops_loading.reset();
  server->serve(std::move(engine), flags.chat_options());
  log(LogLevel::info, "serving {} at {}: context of {} tokens, KV cache of {} tokens, up to {} replies together",
      options.served_names.front(), url, context, tokens, flags.max_running);

  wait_for(end.token());
  if (!end.is_lost()) {
    log(LogLevel::info, "draining: requests under way have {} s; another signal ends them now", flags.drain_timeout_s);
    server->drain(to_ms(flags.drain_timeout_s), stop.second);
  }
  server->stop(end.is_lost() ? engine::FinishReason::lost : engine::FinishReason::shutdown);
  log(LogLevel::info, "stopped");
  return end.is_lost() ? kExitFailed : kExitOk;
}

/// A further rank of a node.
Result<int> serve_rank(const ServeFlags& flags, int channel) {
  KEYE_TRY_VOID(flags.check());
  KEYE_TRY(const Path folder, model_folder(flags.model));
  KEYE_TRY(const auto process, join_node(flags.ranks, channel));
  set_log_sink(
      [as_json = flags.log_format == "json", rank = std::to_string(process->place().rank)](const auto& record) {
        LogFields fields = record.fields;
        fields.emplace_back("rank", rank);
        (as_json ? log_as_json : log_as_text)({record.level, record.message, fields});
      });
  return serve_part(flags, folder, *process, nullptr);
}

}  // namespace

int cmd_serve(int argc, char** argv) {
  CLI::App app("Serves a model to any OpenAI client", "serve");
  ServeFlags flags;
  flags.add_to(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  const auto code = serve(flags, {argv, argv + argc});
  if (!code) clear_progress();
  return code ? *code : report("serve", code.error());
}

int cmd_serve_rank(int argc, char** argv, int channel) {
  CLI::App app("A rank of keye serve", "serve");
  ServeFlags flags;
  flags.add_to(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  const auto code = serve_rank(flags, channel);
  return code ? *code : report("serve", code.error());
}

}  // namespace keye::cli
