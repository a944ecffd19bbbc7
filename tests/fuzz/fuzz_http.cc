// Any bytes as a connection's input: however they are cut, the same requests come out, within the limits, and nothing
// is read behind a request that was refused. What comes out is screened as the server screens it.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "server/http_parser.h"
#include "server/router.h"

namespace {

using namespace keye::server;

constexpr HttpParserLimits kLimits{.header_bytes_max = 512, .body_bytes_max = 1024};
constexpr size_t kRequestsMax = 16;

struct Parsed {
  std::vector<HttpRequest> requests;
  int refusal = 0;
  bool waits = false;  // for the rest of a request
  size_t used = 0;     // bytes of the requests; of one that is not whole, the parser may have taken some or none
};

void check_request(const HttpRequest& request) {
  KEYE_CHECK(request.path.find('\0') == std::string::npos && !request.method.empty());
  KEYE_CHECK(request.body.size() <= kLimits.body_bytes_max);
  size_t bytes = 0;
  for (const auto& [name, value] : request.headers) {
    bytes += name.size() + value.size();
    KEYE_CHECK(name.find_first_of("\r\n: ") == std::string::npos &&
               value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
  }
  KEYE_CHECK(bytes <= kLimits.header_bytes_max);
  KEYE_CHECK(!(request.headers.contains("content-length") && request.headers.contains("transfer-encoding")));
}

/// The first byte of `steps`, and then each of the others in turn, says how many bytes come next (0: one).
Parsed parse(std::string_view bytes, std::string_view steps) {
  Parsed parsed;
  HttpParser parser(kLimits);
  std::string rest;
  size_t given = 0;
  for (size_t part = 0; !bytes.empty() && parsed.refusal == 0 && parsed.requests.size() < kRequestsMax; ++part) {
    size_t count = bytes.size();
    if (!steps.empty()) count = static_cast<uint8_t>(steps[part % steps.size()]);
    const std::string_view next = bytes.substr(0, count == 0 ? 1 : count);
    bytes.remove_prefix(next.size());
    rest += next;
    given += next.size();
    while (!rest.empty() && parsed.requests.size() < kRequestsMax) {
      const size_t before = rest.size();
      const HttpParser::State state = parser.push(rest);
      KEYE_CHECK(rest.size() <= before && state == parser.state());
      if (state == HttpParser::State::failed) {
        parsed.refusal = parser.refusal().status;
        KEYE_CHECK(parsed.refusal == 400 || parsed.refusal == 413 || parsed.refusal == 417 || parsed.refusal == 431);
        KEYE_CHECK(keye::parse_json(parser.refusal().body, "refusal").has_value());
        break;
      }
      if (state != HttpParser::State::done) break;
      parsed.requests.push_back(parser.take());
      parsed.used = given - rest.size();
      check_request(parsed.requests.back());
      parser = HttpParser(kLimits);
    }
  }
  parsed.waits = parsed.refusal == 0 && parser.started();
  return parsed;
}

bool same(const HttpRequest& a, const HttpRequest& b) {
  return a.method == b.method && a.path == b.path && a.query == b.query && a.headers == b.headers && a.body == b.body &&
         a.keep_alive == b.keep_alive && a.http_1_0 == b.http_1_0;
}

/// Whatever comes, who has no key does not get past.
void screen(const HttpRequest& request) {
  static const Router router = [] {
    Router made({.keys = {"fuzzed-key-that-is-in-no-input"}, .admin = {}}, {}, {.only_local = true, .others = {}});
    made.add({"GET", "/health", Access::everybody, {}});
    made.add({"POST", "/generate", Access::key, {}});
    return made;
  }();
  const auto refusal = router.screen(request);
  KEYE_CHECK(refusal || (request.path == "/health" && (request.method == "GET" || request.method == "HEAD")));
  KEYE_CHECK(!response_head(request, refusal ? refusal->status : 200, {}, 0, true).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string_view steps = bytes.substr(0, size > 0 ? data[0] % 8 : 0);
  bytes.remove_prefix(steps.size());
  const Parsed whole = parse(bytes, {});
  const Parsed cut = parse(bytes, steps);
  for (const HttpRequest& request : whole.requests) screen(request);
  // A line between chunks is known to be too long only once it is: its end may have come with it.
  if (whole.refusal == 431 || cut.refusal == 431) return 0;
  KEYE_CHECK(whole.requests.size() == cut.requests.size());
  for (size_t i = 0; i < whole.requests.size(); ++i) KEYE_CHECK(same(whole.requests[i], cut.requests[i]));
  // Of a request that is not whole, what is wrong may be seen sooner or later.
  KEYE_CHECK(whole.waits || cut.waits || (whole.refusal == 0) == (cut.refusal == 0), "{} and {}", whole.refusal,
             cut.refusal);
  KEYE_CHECK(whole.used == cut.used);
  return 0;
}
