#include "loadtest/report.h"

#include <algorithm>
#include <cmath>

namespace keye::loadtest {
namespace {

// A server's chunk waits this long in one of a hundred cases, or the loop has next to no pause: then the generator
// shows.
constexpr double kLagP99MaxMs = 10;
constexpr double kCpuShareMax = 0.85;

float to_ms(double seconds) { return static_cast<float>(seconds * 1e3); }

/// Three decimals: a microsecond of a millisecond figure.
double rounded(double value) { return std::round(value * 1e3) / 1e3; }

void add_count(int64_t& sum, int64_t count) {
  if (count >= 0) sum = std::max<int64_t>(sum, 0) + count;
}

OrderedJson count_or_null(int64_t count) { return count < 0 ? OrderedJson(nullptr) : OrderedJson(count); }

OrderedJson to_json(const Summary& summary) {
  return {{"p50", rounded(summary.p50)}, {"p90", rounded(summary.p90)}, {"p95", rounded(summary.p95)},
          {"p99", rounded(summary.p99)}, {"max", rounded(summary.max)}, {"mean", rounded(summary.mean)},
          {"samples", summary.count}};
}

OrderedJson to_json(const Config& config) {
  OrderedJson images = OrderedJson::array();
  for (const Path& image : config.images) images.push_back(image.string());
  return {{"base_url", config.base_url},
          {"endpoint", config.endpoint == Endpoint::chat ? "chat" : "completions"},
          {"model", config.model},
          {"concurrency", config.concurrency},
          {"rate", config.rate},
          {"poisson", config.poisson},
          {"requests", config.requests},
          {"duration_s", config.duration_s},
          {"warmup", config.warmup},
          {"prompt_words", config.prompt_words},
          {"prompt_tokens", config.prompt_tokens},
          {"shared_prefix", config.shared_prefix},
          {"images", images},
          {"image_share", config.image_share},
          {"seed", config.seed},
          {"generate", config.generate},
          {"temperature", config.temperature},
          {"ignore_eos", config.ignore_eos},
          {"timeout_s", config.timeout_s}};
}

std::string row(std::string_view name, const Summary& summary) {
  if (summary.count == 0) return fmt::format("{:<22}{:>10}\n", name, "-");
  return fmt::format("{:<22}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}\n", name, summary.mean, summary.p50,
                     summary.p90, summary.p95, summary.p99, summary.max);
}

std::string load_line(const Report& report) {
  const Config& config = report.config;
  const std::string load =
      config.open_loop() ? fmt::format("open loop, {} requests/s{}", config.rate, config.poisson ? " (Poisson)" : "")
                         : fmt::format("closed loop, {} at a time", config.concurrency);
  return fmt::format("{}: {} ok, {} failed in {:.2f} s{}; up to {} at once\n", load, report.ok, report.failed,
                     report.duration_s, report.interrupted ? ", interrupted" : "", report.in_flight_max);
}

std::string tokens_line(const Report& report) {
  std::string line = "tokens       ";
  if (report.prompt_tokens >= 0) line += fmt::format("{} in", report.prompt_tokens);
  if (report.cached_tokens >= 0) line += fmt::format(" ({} cached)", report.cached_tokens);
  if (report.prompt_tokens >= 0) line += ", ";
  line += fmt::format("{} out in {} chunks", report.output_tokens, report.chunks);
  if (report.with_usage < report.ok)
    line += fmt::format("; {} replies without usage count chunks as tokens", report.ok - report.with_usage);
  if (report.empty > 0) line += fmt::format("; {} replies without text", report.empty);
  return line + "\n";
}

/// A server's words for a terminal: one line, not long.
std::string shown(std::string_view message) {
  constexpr size_t kBytesMax = 300;
  std::string line(message.substr(0, kBytesMax));
  std::replace_if(
      line.begin(), line.end(), [](char c) { return (c >= 0 && c < ' ') || c == 0x7F; }, ' ');
  return message.size() > kBytesMax ? line + "..." : line;
}

}  // namespace

bool Generator::was_bottleneck() const { return lag_ms.p99 > kLagP99MaxMs || cpu_share > kCpuShareMax; }

void Tally::add(const Outcome& outcome) {
  if (outcome.failure) {
    ++counts_.failed;
    ++counts_.errors[outcome.failure->kind];
    counts_.error_examples.emplace(outcome.failure->kind, shown(outcome.failure->message));
    return;
  }
  ++counts_.ok;
  e2e_ms_.push_back(to_ms(outcome.end_s));
  add_tokens(outcome);
  if (outcome.chunks == 0) {
    ++counts_.empty;
    return;
  }
  ttft_ms_.push_back(to_ms(outcome.first_s));
  itl_ms_.insert(itl_ms_.end(), outcome.gaps_ms.begin(), outcome.gaps_ms.end());
  if (outcome.chunks > 1 && outcome.output_tokens() > 1)
    tpot_ms_.push_back(to_ms((outcome.last_s - outcome.first_s) / static_cast<double>(outcome.output_tokens() - 1)));
}

void Tally::add_tokens(const Outcome& outcome) {
  counts_.chunks += outcome.chunks;
  counts_.output_tokens += outcome.output_tokens();
  if (outcome.usage.completion_tokens >= 0) ++counts_.with_usage;
  add_count(counts_.prompt_tokens, outcome.usage.prompt_tokens);
  add_count(counts_.cached_tokens, outcome.usage.cached_tokens);
}

Report Tally::report() const {
  Report report = counts_;
  report.ttft_ms = summarize(ttft_ms_);
  report.itl_ms = summarize(itl_ms_);
  report.tpot_ms = summarize(tpot_ms_);
  report.e2e_ms = summarize(e2e_ms_);
  return report;
}

OrderedJson to_json(const Report& report) {
  OrderedJson json;
  json["config"] = to_json(report.config);
  json["requests"] = {{"ok", report.ok},
                      {"failed", report.failed},
                      {"empty", report.empty},
                      {"in_flight_max", report.in_flight_max},
                      {"interrupted", report.interrupted}};
  json["errors"] = OrderedJson::object();
  for (const auto& [kind, count] : report.errors) json["errors"][kind] = count;
  json["error_examples"] = OrderedJson::object();
  for (const auto& [kind, message] : report.error_examples) json["error_examples"][kind] = message;
  json["duration_s"] = rounded(report.duration_s);
  json["output_tokens_per_s"] = rounded(report.per_second(report.output_tokens));
  json["input_tokens_per_s"] =
      report.prompt_tokens < 0 ? OrderedJson(nullptr) : OrderedJson(rounded(report.per_second(report.prompt_tokens)));
  json["requests_per_s"] = rounded(report.per_second(report.ok));
  json["ttft_ms"] = to_json(report.ttft_ms);
  json["itl_ms"] = to_json(report.itl_ms);
  json["tpot_ms"] = to_json(report.tpot_ms);
  json["e2e_ms"] = to_json(report.e2e_ms);
  json["tokens"] = {{"output", report.output_tokens},
                    {"prompt", count_or_null(report.prompt_tokens)},
                    {"cached", count_or_null(report.cached_tokens)},
                    {"chunks", report.chunks},
                    {"replies_with_usage", report.with_usage}};
  const Generator& generator = report.generator;
  json["generator"] = {{"lag_ms", to_json(generator.lag_ms)},
                       {"cpu_share", rounded(generator.cpu_share)},
                       {"bottleneck", generator.was_bottleneck()}};
  return json;
}

std::string to_table(const Report& report) {
  const Config& config = report.config;
  std::string table = fmt::format("{}, {}, model {}\n", config.base_url, endpoint_path(config.endpoint),
                                  config.model.empty() ? "not named" : config.model);
  table += load_line(report);
  table += fmt::format("throughput   {:.1f} output tokens/s, ", report.per_second(report.output_tokens));
  if (report.prompt_tokens >= 0)
    table += fmt::format("{:.1f} input tokens/s, ", report.per_second(report.prompt_tokens));
  table += fmt::format("{:.2f} requests/s\n", report.per_second(report.ok));
  table += tokens_line(report);
  table += fmt::format("{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "milliseconds", "mean", "p50", "p90", "p95",
                       "p99", "max");
  table += row("first chunk (TTFT)", report.ttft_ms);
  table += row("between chunks (ITL)", report.itl_ms);
  table += row("per token (TPOT)", report.tpot_ms);
  table += row("whole reply (E2E)", report.e2e_ms);
  table += fmt::format("generator    its loop's lag p99 {:.1f} ms, max {:.1f} ms; {:.0f} % of a processor\n",
                       report.generator.lag_ms.p99, report.generator.lag_ms.max, 100 * report.generator.cpu_share);
  for (const auto& [kind, count] : report.errors)
    table += fmt::format("{} x {}: {}\n", count, kind, report.error_examples.at(kind));
  return table;
}

}  // namespace keye::loadtest
