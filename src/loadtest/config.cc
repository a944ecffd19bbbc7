#include "loadtest/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace keye::loadtest {
namespace {

constexpr int kConcurrencyMax = 100'000;
constexpr double kRateMax = 1e6;
constexpr int64_t kWordsMax = 10'000'000;
constexpr double kSecondsMax = 1e7;

Error invalid(std::string_view flag, std::string message) {
  return Error{ErrorCode::invalid_argument, std::move(message), std::string(flag)};
}

bool is_visible_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

template <class T>
Result<void> in_range(std::string_view flag, T value, T low, T high) {
  if (value >= low && value <= high) return {};
  return invalid(flag, fmt::format("expected {} to {}, got {}", low, high, value));
}

Result<void> validate_load(const Config& config) {
  if ((config.concurrency != 0) == (config.rate != 0)) return invalid("--concurrency", "give one of it and --rate");
  if (config.poisson && !config.open_loop()) return invalid("--poisson", "needs --rate");
  if (config.requests == 0 && config.duration_s == 0)
    return invalid("--requests", "how many requests, or --duration, or both");
  KEYE_TRY_VOID(in_range("--concurrency", config.concurrency, 0, kConcurrencyMax));
  KEYE_TRY_VOID(in_range("--rate", config.rate, 0.0, kRateMax));
  KEYE_TRY_VOID(in_range("--requests", config.requests, int64_t{0}, int64_t{1'000'000'000}));
  KEYE_TRY_VOID(in_range("--duration", config.duration_s, 0.0, kSecondsMax));
  return in_range("--warmup", config.warmup, 0, 1'000'000);
}

Result<void> validate_prompts(const Config& config) {
  if ((config.prompt_words != 0) == (config.prompt_tokens != 0))
    return invalid("--prompt-tokens", "give one of it and --prompt-words");
  KEYE_TRY_VOID(in_range("--prompt-words", config.prompt_words, int64_t{0}, kWordsMax));
  KEYE_TRY_VOID(in_range("--prompt-tokens", config.prompt_tokens, int64_t{0}, kWordsMax));
  KEYE_TRY_VOID(in_range("--shared-prefix", config.shared_prefix, int64_t{0},
                         config.prompt_words > 0 ? config.prompt_words : kWordsMax));
  KEYE_TRY_VOID(in_range("--image-share", config.image_share, 0.0, 1.0));
  if (!config.images.empty() && config.endpoint != Endpoint::chat)
    return invalid("--image", "only chat completions take pictures");
  return {};
}

}  // namespace

Result<void> validate(const Config& config) {
  if (const auto url = parse_url(config.base_url); !url) return url.error();
  if (!is_visible_ascii(config.api_key)) return invalid("--api-key", "expected visible ASCII characters");
  KEYE_TRY_VOID(validate_load(config));
  KEYE_TRY_VOID(validate_prompts(config));
  KEYE_TRY_VOID(in_range("--generate", config.generate, 1, 10'000'000));
  KEYE_TRY_VOID(in_range("--temperature", config.temperature, 0.0, 100.0));
  return in_range("--timeout", config.timeout_s, 0.001, kSecondsMax);
}

std::string Url::authority() const {
  const bool is_v6 = host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}

Result<Url> parse_url(std::string_view text) {
  constexpr std::string_view kWhere = "--base-url";
  constexpr std::string_view kExpected = "expected http[s]://HOST[:PORT][/PATH], got";
  const auto refused = [&] { return invalid(kWhere, fmt::format("{} \"{}\"", kExpected, text)); };
  Url url;
  std::string_view rest = text;
  if (rest.starts_with("https://")) {
    url.tls = true;
  } else if (!rest.starts_with("http://")) {
    return refused();
  }
  rest.remove_prefix(url.tls ? 8 : 7);
  if (!is_visible_ascii(rest) || rest.find_first_of("@?#\\\"<>") != std::string_view::npos) return refused();
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  url.path = std::string(rest.substr(slash));
  while (url.path.ends_with('/')) url.path.pop_back();

  size_t host_end = authority.find(':');
  if (authority.starts_with('[')) {
    const size_t bracket = authority.find(']');
    if (bracket == std::string_view::npos) return refused();
    url.host = std::string(authority.substr(1, bracket - 1));
    host_end = bracket + 1;
  } else {
    url.host = std::string(authority.substr(0, host_end));
  }
  authority.remove_prefix(std::min(host_end, authority.size()));
  if (url.host.empty()) return refused();
  url.port = url.tls ? "443" : "80";
  if (authority.empty()) return url;
  authority.remove_prefix(1);
  int port = 0;
  const auto [end, failed] = std::from_chars(authority.data(), authority.data() + authority.size(), port);
  if (failed != std::errc() || end != authority.data() + authority.size() || port < 1 || port > 65535) return refused();
  url.port = std::to_string(port);
  return url;
}

std::string api_path(const Url& url, std::string_view name) {
  return fmt::format("{}{}", url.path.empty() ? "/v1" : url.path, name);
}

std::string_view endpoint_path(Endpoint endpoint) {
  return endpoint == Endpoint::chat ? "/chat/completions" : "/completions";
}

}  // namespace keye::loadtest
