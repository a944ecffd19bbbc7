// What a load test does: which server it asks, what the requests are, when they are sent.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace keye::loadtest {

enum class Endpoint : uint8_t { chat, completions };

struct Config {
  std::string base_url;  // http[s]://host[:port][/path]; without a path, /v1
  std::string api_key;   // sent as a bearer token unless empty
  std::string model;     // empty: the first that the server lists
  Endpoint endpoint = Endpoint::chat;

  // Closed loop: so many at a time. Open loop: so many a second, whatever the replies do. One of the two is not 0.
  int concurrency = 0;
  double rate = 0;       // requests per second
  bool poisson = false;  // open loop: exponential gaps in place of equal ones

  // At least one of the two is not 0. No request starts after duration_s; those under way are waited for.
  int64_t requests = 0;
  double duration_s = 0;
  int warmup = 0;  // requests before the measured ones

  // Words of a prompt, or what the server shall count for it (the template's share included, pictures not).
  int64_t prompt_words = 0;
  int64_t prompt_tokens = 0;
  int64_t shared_prefix = 0;  // of the words, how many in front are the same in every prompt
  std::vector<Path> images;
  double image_share = 1;  // of the requests, how many bring a picture
  uint64_t seed = 1;       // of prompts, arrivals and pictures

  int generate = 128;  // max_tokens
  double temperature = 0;
  bool ignore_eos = false;
  double timeout_s = 600;  // of a request, from when it is sent to its last byte

  bool open_loop() const { return rate > 0; }
};

/// Whether the fields are in range and fit each other. Errors: invalid_argument, where = the field's flag.
Result<void> validate(const Config& config);

struct Url {
  bool tls = false;
  std::string host;  // an IPv6 address without its brackets
  std::string port;
  std::string path;  // "" or "/..." without a slash at its end

  /// The value of the Host header.
  std::string authority() const;
};

/// Errors: invalid_argument (not http or https, no host, a user, query or fragment, a port out of range).
Result<Url> parse_url(std::string_view text);

/// The path of an endpoint, e.g. "/v1/chat/completions": below the URL's own path, or below /v1 if it has none.
std::string api_path(const Url& url, std::string_view name);
std::string_view endpoint_path(Endpoint endpoint);

}  // namespace keye::loadtest
