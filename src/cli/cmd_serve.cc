#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>

#include "base/log.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/serve_flags.h"
#include "engine/load.h"
#include "engine/memory_plan.h"

namespace keye::cli {
namespace {

/// Tokens that the KV cache holds.
Result<int64_t> kv_tokens(const ServeFlags& flags, model::Model& model) {
  if (flags.max_total_tokens > 0) return flags.max_total_tokens;
  const int64_t of_model = model.config().text.positions_max;
  const int64_t context = flags.context_length > 0 ? std::min(flags.context_length, of_model) : of_model;
  auto tokens = engine::plan_kv_tokens(
      model,
      {.dtype = flags.value_dtype(), .fraction = flags.mem_fraction, .tokens_wanted = context * flags.max_running});
  if (!tokens) return Error{tokens.error().code, tokens.error().message + "; raise it", "--mem-fraction-static"};
  return tokens;
}

std::string url_of(const ServeFlags& flags, int port) {
  const bool is_v6 = flags.host.find(':') != std::string::npos;
  return fmt::format("{}://{}:{}", flags.tls.certificate.empty() ? "http" : "https",
                     is_v6 ? "[" + flags.host + "]" : flags.host, port);
}

Result<int> serve(const ServeFlags& flags) {
  const StopTokens stop = stop_tokens();  // before any thread starts, so that all leave the signals to it
  KEYE_TRY_VOID(flags.check());
  KEYE_TRY(const Path folder, model_folder(flags.model));
  set_log_sink(flags.log_format == "json" ? log_as_json : log_as_text);
  for (const std::string& line : flags.without_effect()) log_event(LogLevel::info, line);

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
  options.request_timeout = std::chrono::milliseconds(static_cast<int64_t>(flags.request_timeout_s * 1000));
  options.stuck_after = std::chrono::milliseconds(static_cast<int64_t>(flags.watchdog_timeout_s * 1000));
  options.log_requests = flags.log_requests;
  options.flags = flags.shown();
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
  const int step_tokens = std::clamp(std::max(flags.chunked_prefill, flags.max_running), 64, 8192);
  KEYE_TRY(auto loaded, engine::load(folder, {.dtype = flags.value_dtype(),
                                              .attention = flags.attention.options(flags.value_dtype()),
                                              .device = flags.device_options(),
                                              .step_tokens_max = step_tokens,
                                              .step_logits_max = flags.max_running,
                                              .progress = load_progress()}));
  KEYE_TRY(const int64_t tokens, kv_tokens(flags, *loaded.model));
  const engine::EngineOptions engine_options{.kv_tokens = tokens,
                                             .context_max = flags.context_length,
                                             .running_max = flags.max_running,
                                             .queued_max = flags.max_queued,
                                             .chunk_tokens = flags.chunked_prefill,
                                             .prefix_cache = !flags.disable_radix_cache,
                                             .vision_cache_bytes = static_cast<size_t>(flags.vision_cache_mib) << 20,
                                             .model_identity = folder.string()};
  auto engine = std::make_unique<engine::Engine>(std::move(loaded), engine_options);
  const int64_t context = engine->context_max();
  stops_loading.reset();
  server->serve(std::move(engine), flags.chat_options());
  log(LogLevel::info, "serving {} at {}: context of {} tokens, KV cache of {} tokens, up to {} replies together",
      options.served_names.front(), url, context, tokens, flags.max_running);

  wait_for(stop.first);
  log(LogLevel::info, "draining: requests under way have {} s; another signal ends them now", flags.drain_timeout_s);
  server->drain(std::chrono::milliseconds(static_cast<int64_t>(flags.drain_timeout_s * 1000)), stop.second);
  server->stop();
  log(LogLevel::info, "stopped");
  return kExitOk;
}

}  // namespace

int cmd_serve(int argc, char** argv) {
  CLI::App app("Serves a model to any OpenAI client", "serve");
  ServeFlags flags;
  flags.add_to(app);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  const auto code = serve(flags);
  if (!code) clear_progress();
  return code ? *code : report("serve", code.error());
}

}  // namespace keye::cli
