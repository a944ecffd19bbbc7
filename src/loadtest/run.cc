#include "loadtest/run.h"

#include <sys/resource.h>

#include <algorithm>

#include "loadtest/plan.h"
#include "loadtest/request.h"

namespace keye::loadtest {
namespace {

constexpr double kModelsS = 10;  // for the server to list its models
constexpr uint64_t kOpenFilesBeside = 64;
constexpr int kWarmupAtOnce = 8;  // in an open loop, which says nothing about it
constexpr int64_t kProbeWords = 16;

/// Raises the soft limit to the hard one; returns what holds then.
uint64_t raise_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlimit raised{limit.rlim_max, limit.rlim_max};
  return ::setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : limit.rlim_cur;
}

Result<void> check_open_files(const Config& config) {
  const uint64_t open_files = raise_open_files();
  const auto connections = static_cast<uint64_t>(config.concurrency);
  if (open_files > kOpenFilesBeside && connections <= open_files - kOpenFilesBeside) return {};
  return make_error(ErrorCode::too_large, "--concurrency", "{} connections, but this process may open {} files",
                    connections, open_files);
}

/// What the server counts for a prompt of so many words, or -1.
Result<Counted> probe(Client& client, Config config, int64_t words) {
  config.concurrency = 1;
  config.rate = 0;
  config.requests = 1;
  config.duration_s = 0;
  config.images.clear();
  config.prompt_words = words;
  config.shared_prefix = 0;
  config.generate = 1;
  KEYE_TRY(const Phase phase, client.run(config, kProbePrompts + static_cast<uint64_t>(words), {}, {}));
  return Counted{.words = words, .tokens = phase.last_usage.prompt_tokens};
}

Result<void> find_prompt_length(Client& client, Config& config) {
  if (config.prompt_tokens == 0) return {};
  // Long enough beside the short one to average over words, and within the context at four tokens a word.
  KEYE_TRY(const Counted shorter, probe(client, config, kProbeWords));
  KEYE_TRY(const Counted longer, probe(client, config, std::max(4 * kProbeWords, config.prompt_tokens / 4)));
  config.prompt_words = words_for_tokens(shorter, longer, config.prompt_tokens);
  return {};
}

Result<void> warm_up(Client& client, Config config, const std::vector<std::string>& pictures,
                     const Progress& progress) {
  if (config.warmup == 0) return {};
  config.concurrency = std::min(config.warmup, config.open_loop() ? kWarmupAtOnce : config.concurrency);
  config.rate = 0;
  config.requests = config.warmup;
  config.duration_s = 0;
  const Progress marked = [&](std::string_view line) {
    if (progress) progress(fmt::format("warming up: {}", line));
  };
  KEYE_TRY(const Phase ignored, client.run(config, kWarmupPrompts, pictures, marked));
  (void)ignored;
  return {};
}

}  // namespace

Result<Report> run(const Config& given, const std::stop_token& stop, const Progress& progress) {
  KEYE_TRY_VOID(validate(given));
  KEYE_TRY_VOID(check_open_files(given));
  Config config = given;
  std::vector<std::string> pictures;
  for (const Path& path : config.images) {
    KEYE_TRY(std::string uri, picture_uri(path));
    pictures.push_back(std::move(uri));
  }
  KEYE_TRY(Client client, Client::make(config, stop));
  if (progress) progress("asking the server");
  if (config.model.empty()) {
    KEYE_TRY(const std::string models, client.get("/models", std::min(config.timeout_s, kModelsS)));
    config.model = first_model(models);
  }
  KEYE_TRY_VOID(find_prompt_length(client, config));
  KEYE_TRY_VOID(warm_up(client, config, pictures, progress));
  if (stop.stop_requested()) return Error{ErrorCode::cancelled, "stopped before anything was measured", ""};

  KEYE_TRY(const Phase phase, client.run(config, 0, pictures, progress));
  Report report = phase.tally.report();
  report.config = config;
  report.duration_s = phase.last_end_s;
  report.in_flight_max = phase.in_flight_max;
  report.interrupted = stop.stop_requested();
  report.generator = phase.generator;
  return report;
}

}  // namespace keye::loadtest
