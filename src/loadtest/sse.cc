#include "loadtest/sse.h"

#include <algorithm>

namespace keye::loadtest {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

size_t find_line_end(std::string_view bytes) {
  return static_cast<size_t>(std::find_if(bytes.begin(), bytes.end(), [](char c) { return c == '\n' || c == '\r'; }) -
                             bytes.begin());
}

}  // namespace

Result<void> SseParser::push(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    if (after_cr_ && bytes.front() == '\n') bytes.remove_prefix(1);
    after_cr_ = false;
    const size_t end = find_line_end(bytes);
    const std::string_view part = bytes.substr(0, end);
    if (line_.size() + data_.size() + part.size() > event_bytes_max_) {
      return make_error(ErrorCode::too_large, "event stream", "an event over {} bytes", event_bytes_max_);
    }
    if (end == bytes.size()) {
      line_ += part;
      return {};
    }
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    if (line_.empty()) {
      take_line(part, sink);
    } else {
      line_ += part;
      take_line(line_, sink);
      line_.clear();
    }
  }
  return {};
}

void SseParser::take_line(std::string_view line, const Sink& sink) {
  if (at_start_ && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  at_start_ = false;
  if (line.empty()) {
    if (has_data_) sink(data_);
    data_.clear();
    has_data_ = false;
    return;
  }
  const size_t colon = std::min(line.find(':'), line.size());
  if (line.substr(0, colon) != "data") return;
  std::string_view value = line.substr(std::min(colon + 1, line.size()));
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += value;
  has_data_ = true;
}

}  // namespace keye::loadtest
