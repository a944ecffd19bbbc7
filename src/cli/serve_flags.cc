#include "cli/serve_flags.h"

#include <algorithm>

#include "cli/model_flags.h"
#include "media/fetch_policy.h"

namespace keye::cli {
namespace {

void add_model_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--model-path,--model", f.model, "checkpoint folder (default: the model that comes with the program)");
  app.add_option("--served-model-name", f.served_names, "names in requests and responses (default: the folder's)");
  app.add_option("--dtype", f.dtype, "of weights, activations and KV cache")
      ->check(CLI::IsMember({"auto", "bfloat16", "bf16", "float32", "float", "f32"}))
      ->capture_default_str();
  app.add_option("--context-length", f.context_length, "tokens of one request, reply included (default: the model's)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 30));
  add_device_flags(app, f.device);
  f.attention.add(app);
  app.add_flag("--trust-remote-code", f.trust_remote_code, "no effect: no code of a checkpoint is ever run");
  app.add_option("--model-loader-extra-config", f.loader_config,
                 "JSON; no effect: weights are always loaded in parallel");
}

void add_engine_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--mem-fraction-static", f.mem_fraction, "share of the memory for weights and KV cache")
      ->check(CLI::Range(0.01, 0.99))
      ->capture_default_str();
  app.add_option("--max-total-tokens", f.max_total_tokens, "tokens that the KV cache holds (default: by memory)")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 32));
  app.add_option("--max-running-requests", f.max_running, "replies computed together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--max-queued-requests", f.max_queued, "replies that wait; more are answered with 429")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--chunked-prefill-size", f.chunked_prefill,
                 "tokens of prompts in one step; replies do not depend on it")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_flag("--disable-radix-cache", f.disable_radix_cache, "nothing computed is kept for later requests");
  app.add_option("--vision-cache-mib", f.vision_cache_mib, "features of pictures that are kept")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--cuda-graph-max-bs", f.cuda_graph_max_bs,
                 "CUDA: steps of at most so many tokens are recorded and replayed; 0: none (default: 256)")
      ->check(CLI::Range(0, 4096));
  app.add_option("--attention-backend", f.attention_backend, "no effect: kernels are chosen by --device and --isa");
  app.add_option("--mm-attention-backend", f.mm_attention_backend, "no effect, likewise");
}

void add_rank_flags(CLI::App& app, ServeFlags& f) {
  f.ranks.add(app);
  const std::string refused = "not supported: more than the default is refused";
  app.add_option("--dp-size,--data-parallel-size,--dp", f.dp_size, refused)->check(CLI::PositiveNumber);
  app.add_flag("--enable-dp-attention", f.dp_attention, refused);
  app.add_flag("--enable-dp-lm-head", f.dp_lm_head, refused);
  app.add_option("--moe-a2a-backend", f.moe_a2a_backend, refused);
  app.add_option("--moe-dense-tp-size", f.moe_dense_tp_size, refused)->check(CLI::PositiveNumber);
  app.add_flag("--enable-two-batch-overlap", f.two_batch_overlap, refused);
}

/// Of the recipe for four nodes. Errors: unsupported, by flag, and what to use instead.
Result<void> check_unsupported(const ServeFlags& f) {
  const auto refuse = [](std::string_view flag, std::string_view what, std::string_view instead) {
    return make_error(ErrorCode::unsupported, flag, "{} is not supported; {}", what, instead);
  };
  if (f.dp_size > 1) {
    return refuse("--dp-size", fmt::format("data parallel over {} groups", f.dp_size),
                  "leave it out, or start as many servers behind a load balancer");
  }
  const std::string_view tensor_parallel = "leave it out: attention is split by heads over --tp-size ranks";
  if (f.dp_attention) return refuse("--enable-dp-attention", "attention in data parallel", tensor_parallel);
  if (f.dp_lm_head) {
    return refuse("--enable-dp-lm-head", "a head in data parallel", "leave it out: it is split by vocabulary");
  }
  if (f.moe_a2a_backend != "none") {
    return refuse(
        "--moe-a2a-backend", fmt::format("\"{}\"", f.moe_a2a_backend),
        "leave it out: experts are split by width, or with --ep-size by expert, and their results are summed");
  }
  if (f.moe_dense_tp_size > 1 || (f.moe_dense_tp_size == 1 && f.ranks.is_spread())) {
    return refuse("--moe-dense-tp-size", std::to_string(f.moe_dense_tp_size),
                  "leave it out: dense layers are split over all --tp-size ranks");
  }
  if (f.two_batch_overlap) {
    return refuse("--enable-two-batch-overlap", "overlapping two batches", "leave it out: results are the same");
  }
  return {};
}

void add_http_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--host", f.host, "address to listen at; 0.0.0.0: all")->capture_default_str();
  app.add_option("--port", f.port, "0: any that is free")->check(CLI::Range(0, 65535))->capture_default_str();
  app.add_option("--api-key", f.api_keys, "that requests must bring; may be repeated, each is a tenant");
  app.add_option("--api-key-file", f.api_key_file, "the same, one key a line")->check(CLI::ExistingFile);
  app.add_option("--admin-api-key", f.admin_key, "for /flush_cache and for aborting all (default: as --api-key)");
  app.add_option("--ssl-certfile", f.tls.certificate, "PEM with the chain: serve https")->check(CLI::ExistingFile);
  app.add_option("--ssl-keyfile", f.tls.key, "PEM")->check(CLI::ExistingFile);
  app.add_option("--ssl-keyfile-password", f.tls.password, "of the key");
  app.add_option("--ssl-ca-certs", f.tls.client_ca, "PEM: clients must show a certificate signed by one of these")
      ->check(CLI::ExistingFile);
  app.add_option("--cors-origins", f.cors_origins, "origins of web pages that may call; \"*\": all (default: none)");
  app.add_option("--allowed-hosts", f.allowed_hosts,
                 "names that requests may call a server by that has no keys and listens on loopback, besides "
                 "localhost; \"*\": any");
  app.add_option("--max-connections", f.connections_max, "")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--max-body-mib", f.body_max_mib, "of one request")
      ->check(CLI::Range(1, 1 << 14))
      ->capture_default_str();
  const CLI::Range seconds(0.001, 1e9);
  app.add_option("--request-timeout", f.request_timeout_s, "seconds for requests that name no timeout; 0: none")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app.add_option("--drain-timeout", f.drain_timeout_s, "seconds that running requests have after SIGTERM")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app.add_option("--ping-interval", f.ping_interval_s, "seconds between comments in a silent stream")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--write-timeout", f.write_timeout_s, "seconds after which a client that reads nothing is given up")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--idle-timeout", f.idle_timeout_s, "seconds between two requests of a connection")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--header-timeout", f.header_timeout_s,
                 "seconds for the header of a request, and for the greeting of TLS")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--body-timeout", f.body_timeout_s, "seconds for the body of a request")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--watchdog-timeout", f.watchdog_timeout_s, "seconds of one step after which /health says stuck")
      ->check(seconds)
      ->capture_default_str();
}

void add_media_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--allowed-local-media-path", f.media_path,
                 "folder below which file:// URLs may lie (default: none may)")
      ->check(CLI::ExistingDirectory);
  app.add_option(
      "--allowed-media-domains", f.media_domains,
      "hosts that pictures may come from, and only these may have private addresses (default: any public one)");
  app.add_option("--mm-max-concurrent-calls", f.media_calls,
                 "requests whose pictures and prompts are prepared together")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--mm-per-request-timeout", f.media_timeout_s, "seconds for fetching one picture")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app.add_option("--max-media-mib", f.media_max_mib, "of one picture's file")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--max-picture-pixels", f.pixels_max, "of one picture, as its header says")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  app.add_option("--max-pictures", f.pictures_max, "of one request")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-videos", f.videos_max, "of one request")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--max-list-frames", f.list_frames_max, "of a video that is sent as a list of pictures")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-video-mib", f.video_max_mib, "of one video's file")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--video-timeout", f.video_timeout_s, "seconds for decoding one video")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app.add_option("--video-workers", f.video_workers,
                 "videos that are decoded at the same time, each in its own process")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--video-cache-mib", f.video_cache_mib,
                 "frames of prepared videos that are kept for follow-up questions; 0: none")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_flag("--adaptive-video-tokens", f.adaptive_video,
               "Keye-VL-2.0: videos under 34 minutes have smaller budgets of tokens");
  app.add_flag("--unsandboxed-video", f.unsandboxed_video, "decode videos even where the system has no seccomp");
}

}  // namespace

void ServeFlags::add_to(CLI::App& app) {
  add_model_flags(app, *this);
  add_engine_flags(app, *this);
  add_rank_flags(app, *this);
  add_http_flags(app, *this);
  add_media_flags(app, *this);
  app.add_flag("--log-requests", log_requests, "a line for each response: id, path, status, time; never what was said");
  app.add_option("--log-format", log_format, "")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  app.set_config("--config", "", "TOML file with flags: max-running-requests = 16; flags on the command line win");
  app.allow_config_extras(CLI::config_extras_mode::error);
}

Result<void> ServeFlags::check() const {
  KEYE_TRY_VOID(check_unsupported(*this));
  KEYE_TRY_VOID(ranks.check());
  if (ranks.is_spread() && device.device != "cpu") {
    return make_error(ErrorCode::unsupported, "--device", "{} ranks run on CPUs only, got {}; use --device cpu",
                      ranks.tp_size, device.device);
  }
  if (tls.certificate.empty() != tls.key.empty()) {
    return make_error(ErrorCode::invalid_argument, tls.key.empty() ? "--ssl-certfile" : "--ssl-keyfile",
                      "--ssl-certfile and --ssl-keyfile go together");
  }
  if (!tls.client_ca.empty() && tls.certificate.empty()) {
    return make_error(ErrorCode::invalid_argument, "--ssl-ca-certs", "needs --ssl-certfile and --ssl-keyfile");
  }
  if (!loader_config.empty()) {
    KEYE_TRY(const Json json, parse_json(loader_config, "--model-loader-extra-config"));
    if (!json.is_object()) {
      return make_error(ErrorCode::invalid_argument, "--model-loader-extra-config", "should be a JSON object");
    }
    for (const auto& [key, value] : json.items()) {
      if (key != "enable_multithread_load" && key != "num_threads") {
        return make_error(ErrorCode::unsupported, "--model-loader-extra-config",
                          "\"{}\" is not known; enable_multithread_load and num_threads are", key);
      }
    }
  }
  return media::check_policy(chat_options().fetch);
}

engine::DeviceOptions ServeFlags::device_options() const {
  engine::DeviceOptions options = device;
  if (cuda_graph_max_bs >= 0) options.graph_rows_max = cuda_graph_max_bs;
  return options;
}

std::vector<std::string> ServeFlags::without_effect() const {
  std::vector<std::string> lines;
  if (trust_remote_code) lines.emplace_back("--trust-remote-code has no effect: no code of a checkpoint is ever run");
  for (const auto& [flag, value] : {std::pair("--attention-backend", attention_backend),
                                    std::pair("--mm-attention-backend", mm_attention_backend)}) {
    if (!value.empty()) {
      lines.push_back(fmt::format("{} {} has no effect: kernels are chosen by --device and --isa", flag, value));
    }
  }
  if (cuda_graph_max_bs >= 0 && device.device == "cpu") {
    lines.emplace_back("--cuda-graph-max-bs has no effect: there are no CUDA graphs on a CPU");
  }
  if (!loader_config.empty()) {
    lines.emplace_back(
        "--model-loader-extra-config has no effect: weights are always mapped and packed by all --threads");
  }
  if (!ranks.init_address.empty() && ranks.nodes == 1) {
    lines.emplace_back("--dist-init-addr has no effect with one node");
  }
  return lines;
}

Result<server::ApiKeys> ServeFlags::keys() const {
  server::ApiKeys keys{.keys = api_keys, .admin = admin_key};
  if (!api_key_file.empty()) {
    KEYE_TRY(const std::string text, read_file(api_key_file, size_t{1} << 20));
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      std::string key = text.substr(begin, end - begin);
      while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
      if (!key.empty()) keys.keys.push_back(std::move(key));
      begin = end + 1;
    }
    if (keys.keys.empty()) return make_error(ErrorCode::invalid_argument, api_key_file, "has no key in it");
  }
  if (std::any_of(keys.keys.begin(), keys.keys.end(), [](const auto& key) { return key.empty(); })) {
    return make_error(ErrorCode::invalid_argument, "--api-key", "should not be empty");
  }
  return keys;
}

server::HttpLimits ServeFlags::http_limits() const {
  server::HttpLimits limits;
  limits.connections_max = connections_max;
  limits.body_bytes_max = static_cast<size_t>(body_max_mib) << 20;
  limits.ping_interval = to_ms(ping_interval_s);
  limits.write_timeout = to_ms(write_timeout_s);
  limits.idle_timeout = to_ms(idle_timeout_s);
  limits.header_timeout = to_ms(header_timeout_s);
  limits.body_timeout = to_ms(body_timeout_s);
  return limits;
}

engine::ChatClientOptions ServeFlags::chat_options() const {
  engine::ChatClientOptions options;
  if (!media_path.empty()) options.fetch.local_root = media_path;
  options.fetch.domains = media_domains;
  options.fetch.timeout = to_ms(media_timeout_s);
  options.fetch.all_timeout = 4 * options.fetch.timeout;
  options.limits.bytes_max = static_cast<size_t>(media_max_mib) << 20;
  options.limits.pixels_max = pixels_max;
  options.pictures_max = pictures_max;
  options.videos_max = videos_max;
  options.list_frames_max = list_frames_max;
  options.video.limits.bytes_max = int64_t{video_max_mib} << 20;
  options.video.limits.seconds_max = video_timeout_s;
  options.video.workers_max = video_workers;
  options.video.allow_unsandboxed = unsandboxed_video;
  options.adaptive_video_budget = adaptive_video;
  options.video_cache_bytes = static_cast<size_t>(video_cache_mib) << 20;
  options.preparing_threads = media_calls;
  options.preparing_max = max_queued + max_running;
  return options;
}

OrderedJson ServeFlags::shown() const {
  OrderedJson json;
  json["host"] = host;
  json["dtype"] = dtype;
  json["tp_size"] = ranks.tp_size;
  json["ep_size"] = ranks.ep_size;
  json["nnodes"] = ranks.nodes;
  json["mem_fraction_static"] = mem_fraction;
  json["max_running_requests"] = max_running;
  json["max_queued_requests"] = max_queued;
  json["chunked_prefill_size"] = chunked_prefill;
  json["disable_radix_cache"] = disable_radix_cache;
  json["vision_cache_mib"] = vision_cache_mib;
  json["video_cache_mib"] = video_cache_mib;
  json["allowed_local_media_path"] = media_path.empty() ? OrderedJson() : OrderedJson(media_path);
  json["allowed_media_domains"] = media_domains;
  json["request_timeout"] = request_timeout_s;
  json["drain_timeout"] = drain_timeout_s;
  json["tls"] = !tls.certificate.empty();
  json["api_key"] = !api_keys.empty() || !api_key_file.empty();
  return json;
}

}  // namespace keye::cli
