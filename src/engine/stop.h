// When a reply ends: stop strings, stop tokens, length. Text is held back while it may still become a stop string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace keye::engine {

enum class FinishReason : uint8_t { stop, length, cancelled };
std::string_view finish_reason_name(FinishReason reason);

/// Finds stop strings in text that arrives in pieces.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Adds text; returns what may be shown now: everything before a stop string, or all but a tail that could still
  /// begin one. After a hit (see `hit`) nothing more comes out.
  std::string push(std::string_view text);
  /// The reply is over: what was held back.
  std::string flush();
  bool hit() const { return hit_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool hit_ = false;
};

}  // namespace keye::engine
