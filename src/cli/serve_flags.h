// The flags of `keye serve`: SGLang's spelling where SGLang has them.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/attention_flags.h"
#include "cli/rank_flags.h"
#include "engine/engine.h"
#include "server/server.h"

namespace keye::cli {

struct ServeFlags {
  std::string model;
  std::vector<std::string> served_names;
  std::string host = "127.0.0.1";
  int port = 30000;

  RankFlags ranks;
  // Refused, unless they ask for nothing.
  int dp_size = 1, moe_dense_tp_size = 0;
  bool dp_attention = false, dp_lm_head = false, two_batch_overlap = false;
  std::string moe_a2a_backend = "none";

  // Accepted for what they mean, where that is possible here.
  bool trust_remote_code = false;
  std::string attention_backend, mm_attention_backend;
  std::string loader_config;

  std::string dtype = "auto";
  engine::DeviceOptions device;
  int cuda_graph_max_bs = -1;  // not given
  AttentionFlags attention;
  bool disable_radix_cache = false;
  double mem_fraction = 0.7;
  int64_t max_total_tokens = 0, context_length = 0;
  int max_running = 64, max_queued = 1024, chunked_prefill = 512;
  int vision_cache_mib = 512;
  int video_cache_mib = 512;

  std::vector<std::string> api_keys;
  std::string api_key_file, admin_key;
  std::vector<std::string> cors_origins, allowed_hosts;
  server::TlsFiles tls;
  std::string media_path;
  std::vector<std::string> media_domains;
  int media_calls = 8, media_max_mib = 64, pictures_max = 256;
  int videos_max = 16, list_frames_max = 4096, video_max_mib = 4096, video_workers = 2;
  double video_timeout_s = 600;
  bool adaptive_video = false, unsandboxed_video = false;
  int64_t pixels_max = media::MediaLimits().pixels_max;
  double media_timeout_s = 30;

  int connections_max = 4096, body_max_mib = 256;
  double request_timeout_s = 0, drain_timeout_s = 60, ping_interval_s = 15, write_timeout_s = 60, idle_timeout_s = 75;
  double header_timeout_s = 10, body_timeout_s = 120;
  double watchdog_timeout_s = 300;
  bool log_requests = false;
  std::string log_format = "text";

  void add_to(CLI::App& app);
  /// Errors: what cannot be done here, by flag, and what to do instead.
  Result<void> check() const;
  engine::DeviceOptions device_options() const;
  /// Flags that were given and change nothing here, each with the reason.
  std::vector<std::string> without_effect() const;

  Result<server::ApiKeys> keys() const;
  server::HttpLimits http_limits() const;
  engine::ChatClientOptions chat_options() const;
  DType value_dtype() const {
    return dtype == "float32" || dtype == "float" || dtype == "f32" ? DType::f32 : DType::bf16;
  }
  /// Tokens of one step at most.
  int step_tokens() const { return std::clamp(std::max(chunked_prefill, max_running), 64, 8192); }
  /// As given, without keys and passwords.
  OrderedJson shown() const;
};

}  // namespace keye::cli
