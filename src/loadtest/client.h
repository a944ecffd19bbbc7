// The network part: connections, coroutines and the clock, behind a type that names no library.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "loadtest/config.h"
#include "loadtest/reply.h"
#include "loadtest/report.h"

namespace keye::loadtest {

/// Gets a line about how far the test is, a few times a second.
using Progress = std::function<void(std::string_view)>;

/// What sending one configuration's requests gave.
struct Phase {
  Tally tally;
  Usage last_usage;       // of the reply that ended last
  double last_end_s = 0;  // when it did, since the start
  int64_t in_flight_max = 0;
  Generator generator;
};

/// A client of one server that keeps its connections from phase to phase. All runs on the calling thread.
class Client {
 public:
  /// Looks up the host of config.base_url. `stop` may be requested from any thread: what is under way is dropped then,
  /// and nothing is started any more. Errors: invalid_argument, unavailable (no address), io (TLS).
  static Result<Client> make(const Config& config, std::stop_token stop);
  Client(Client&&) noexcept;
  ~Client();

  /// The body of a successful GET below the API's path, or nothing.
  Result<std::string> get(std::string_view path, double timeout_s);

  /// Sends the requests that `config` plans and waits for the last reply. Prompts are numbered from first_prompt on;
  /// `pictures` are URIs, in the order of config.images. Requests that fail are counted. Errors: internal.
  Result<Phase> run(const Config& config, uint64_t first_prompt, const std::vector<std::string>& pictures,
                    const Progress& progress);

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace keye::loadtest
