#include <cstdio>
#include <string>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "loadtest/run.h"

namespace keye::cli {
namespace {

constexpr const char* kName = "bench serve";

constexpr const char* kDescription =
    R"(Sends streaming requests to a server that speaks OpenAI's API (keye, SGLang, vLLM, llama-server) and measures
the replies.

With --concurrency, so many requests are under way at a time (closed loop) and latencies count from when a request is
sent. With --rate, requests are due at times that slow replies do not shift (open loop) and latencies count from when a
request was due: a server that cannot keep up is not spared. Connections are kept alive; setting one up is part of the
latency of the first request over it.

Prompts are made-up words. Same --seed, same prompts: a server that caches prefixes may know them from an earlier run,
so change the seed. Pictures follow the text, but the same ones are sent again and again.)";

constexpr const char* kFooter =
    R"(What is measured, of replies that came whole:
  TTFT  until the first chunk that has text (of the answer, the reasoning or a tool call)
  ITL   from one such chunk to the next; for each chunk, which may hold several tokens
  TPOT  first to last chunk of a reply, divided by its output tokens but one
  E2E   until the end of the stream
Output tokens are the server's count (stream_options.include_usage); where it gives none, chunks are counted.
Percentiles are samples: the smallest one that so many percent do not exceed. Throughput is over the time from the
start to the end of the last reply. Failures are counted by kind: http_STATUS, connect, timeout, disconnected,
malformed_stream, server_error.
Exit code: 0 done, 1 no request succeeded, 2 wrong usage.)";

struct Flags {
  loadtest::Config config;
  std::string endpoint = "chat";
  std::vector<std::string> images;
  bool as_json = false;
};

void add_load_flags(CLI::App& app, loadtest::Config& config) {
  auto* concurrency = app.add_option("--concurrency", config.concurrency, "requests under way at a time (closed loop)")
                          ->check(CLI::Range(1, 100'000));
  auto* rate = app.add_option("--rate", config.rate, "requests a second, whatever the replies do (open loop)")
                   ->check(CLI::PositiveNumber)
                   ->excludes(concurrency);
  app.add_flag("--poisson", config.poisson, "random gaps (a Poisson process) in place of equal ones")->needs(rate);
  app.add_option("--requests", config.requests, "how many to send")->check(CLI::PositiveNumber);
  app.add_option("--duration", config.duration_s,
                 "seconds after which no more are sent; those under way are waited for")
      ->check(CLI::PositiveNumber);
  app.add_option("--warmup", config.warmup, "requests to send before, with prompts of their own, not measured")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--timeout", config.timeout_s, "seconds for a request, from when it is sent to its last byte")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void add_prompt_flags(CLI::App& app, Flags& flags) {
  loadtest::Config& config = flags.config;
  auto* words = app.add_option("--prompt-words", config.prompt_words, "words of a prompt")->check(CLI::PositiveNumber);
  app.add_option("--prompt-tokens", config.prompt_tokens,
                 "tokens of a prompt as the server counts them, without pictures; it is asked twice (default: 256)")
      ->check(CLI::PositiveNumber)
      ->excludes(words);
  app.add_option("--shared-prefix", config.shared_prefix,
                 "of a prompt's words, how many in front are the same in all prompts")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--image", flags.images,
                 "picture file that requests bring; may be repeated, then one of them at random");
  app.add_option("--image-share", config.image_share, "share of the requests that bring a picture")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", config.seed, "of prompts, arrivals and pictures")->capture_default_str();
  app.add_option("--generate", config.generate, "max_tokens of a reply")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--temperature", config.temperature, "of sampling")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--ignore-eos", config.ignore_eos,
               "ask for replies of full length (ignore_eos, which SGLang, vLLM and llama-server know)");
}

void add_flags(CLI::App& app, Flags& flags) {
  app.add_option("--base-url", flags.config.base_url,
                 "http[s]://HOST[:PORT][/PATH]; without a path, the API is looked for below /v1")
      ->required();
  app.add_option("--api-key", flags.config.api_key, "sent as a bearer token");
  app.add_option("--model", flags.config.model, "model name to ask for (default: the first that the server lists)");
  app.add_option("--endpoint", flags.endpoint, "chat or completions")
      ->check(CLI::IsMember({"chat", "completions"}))
      ->capture_default_str();
  add_load_flags(app, flags.config);
  add_prompt_flags(app, flags);
  app.add_flag("--json", flags.as_json, "print one JSON object");
  app.footer(kFooter);
}

void warn(const loadtest::Report& report) {
  if (!report.generator.was_bottleneck()) return;
  std::fprintf(
      stderr,
      "keye %s: warning: this program was the bottleneck: its loop was up to %.1f ms late (p99 %.1f ms) and used "
      "%.0f %% of a processor; latencies may be its own. Send less, or free the processor.\n",
      kName, report.generator.lag_ms.max, report.generator.lag_ms.p99, 100 * report.generator.cpu_share);
}

}  // namespace

int cmd_bench_serve(int argc, char** argv) {
  CLI::App app(kDescription, kName);
  Flags flags;
  add_flags(app, flags);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  loadtest::Config& config = flags.config;
  config.endpoint = flags.endpoint == "chat" ? loadtest::Endpoint::chat : loadtest::Endpoint::completions;
  config.images.assign(flags.images.begin(), flags.images.end());
  if (config.prompt_words == 0 && config.prompt_tokens == 0) config.prompt_tokens = 256;
  if (const auto valid = loadtest::validate(config); !valid) return usage_error(kName, valid.error().to_string());

  const std::stop_token stop = interrupt_token();
  const auto result = loadtest::run(config, stop, bench_progress());
  clear_progress();
  if (!result) return report(kName, result.error());
  const std::string text = flags.as_json
                               ? to_json(*result).dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n"
                               : to_table(*result);
  if (const auto written = write_stdout(text); !written) return report(kName, written.error());
  warn(*result);
  return result->ok > 0 ? kExitOk : kExitFailed;
}

}  // namespace keye::cli
