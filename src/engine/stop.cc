#include "engine/stop.h"

#include <algorithm>
#include <utility>

namespace keye::engine {

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::deadline:
      return "deadline";
    case FinishReason::shutdown:
      return "shutdown";
    case FinishReason::failed:
      return "failed";
    case FinishReason::lost:
      return "lost";
  }
  return "unknown";
}

std::string StopStrings::push(std::string_view text) {
  if (hit_) return {};
  held_ += text;
  size_t first = std::string::npos;
  const std::string* found = nullptr;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    const size_t at = held_.find(stop);
    if (at < first) {
      first = at;
      found = &stop;
    }
  }
  if (found != nullptr) {
    hit_ = *found;
    std::string shown = held_.substr(0, first);
    held_.clear();
    return shown;
  }
  // The longest tail that is a beginning of some stop string must wait.
  size_t wait = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.empty() ? 0 : stop.size() - 1, held_.size()); n > wait; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) {
        wait = n;
        break;
      }
    }
  }
  std::string shown = held_.substr(0, held_.size() - wait);
  held_.erase(0, held_.size() - wait);
  return shown;
}

std::string StopStrings::flush() { return std::exchange(held_, {}); }

}  // namespace keye::engine
