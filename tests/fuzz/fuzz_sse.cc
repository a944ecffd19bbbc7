// Any bytes as an event stream: however they are cut, the same events come out, and a reply made of them ends in a
// measurement or a failure, the same for every cut.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "loadtest/reply.h"
#include "loadtest/sse.h"

namespace {

using namespace keye::loadtest;

constexpr size_t kEventBytesMax = 256;

struct Parsed {
  std::vector<std::string> events;
  bool refused = false;
  Outcome outcome;
};

/// The first byte of `steps`, and then each of the others in turn, says how many bytes come next (0: one).
Parsed parse(std::string_view bytes, std::string_view steps) {
  Parsed parsed;
  SseParser parser(kEventBytesMax);
  Reply reply(0);
  for (size_t part = 0; !bytes.empty(); ++part) {
    size_t count = bytes.size();
    if (!steps.empty()) count = static_cast<uint8_t>(steps[part % steps.size()]);
    const std::string_view next = bytes.substr(0, count == 0 ? 1 : count);
    bytes.remove_prefix(next.size());
    reply.push(next, 1);
    if (parsed.refused) continue;
    parsed.refused = !parser.push(next, [&](std::string_view data) {
      KEYE_CHECK(data.size() <= kEventBytesMax);
      parsed.events.emplace_back(data);
    });
  }
  reply.end(2);
  KEYE_CHECK(reply.is_over());
  parsed.outcome = reply.take();
  return parsed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string_view steps = bytes.substr(0, size > 0 ? data[0] % 8 : 0);
  bytes.remove_prefix(steps.size());
  const Parsed whole = parse(bytes, {});
  const Parsed cut = parse(bytes, steps);
  KEYE_CHECK(whole.events == cut.events && whole.refused == cut.refused);
  KEYE_CHECK(whole.outcome.failure.has_value() == cut.outcome.failure.has_value());
  if (whole.outcome.failure) {
    KEYE_CHECK(whole.outcome.failure->kind == cut.outcome.failure->kind);
    KEYE_CHECK(whole.outcome.failure->message == cut.outcome.failure->message);
  }
  KEYE_CHECK(whole.outcome.chunks == cut.outcome.chunks);
  KEYE_CHECK(whole.outcome.gaps_ms == cut.outcome.gaps_ms);
  KEYE_CHECK(whole.outcome.output_tokens() == cut.outcome.output_tokens());
  first_model(bytes);
  return 0;
}
