// When a reply ends: stop strings, stop tokens, length. Text is held back while it may still become a stop string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace keye::engine {

enum class FinishReason : uint8_t {
  stop,       // a stop token or string
  length,     // as many tokens as were asked for, or as fit
  cancelled,  // on request: nobody wants it any more
  deadline,   // out of time
  shutdown,   // the engine ends
  failed,     // the machine could not do it (out of memory)
  lost,       // a rank of the model is gone
};
std::string_view finish_reason_name(FinishReason reason);

/// Finds stop strings in text that arrives in pieces.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Adds text; returns what may be shown now: everything before a stop string, or all but a tail that could still
  /// begin one. After a hit nothing more comes out. Of two that begin at the same place, the first in the list counts.
  std::string push(std::string_view text);
  /// The reply is over: what was held back.
  std::string flush();
  /// The stop string that was found.
  const std::optional<std::string>& hit() const { return hit_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::optional<std::string> hit_;
};

}  // namespace keye::engine
