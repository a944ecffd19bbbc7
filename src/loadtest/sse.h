// text/event-stream: bytes to events, however the bytes are cut.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace keye::loadtest {

/// Parses as the HTML standard says ("Server-sent events", 9.2.6): lines end in LF, CR or CRLF, an empty line ends an
/// event, several data lines are joined by LF, comments and other fields are skipped, an event that the stream's end
/// cuts is dropped. Holds no more than the event under way.
class SseParser {
 public:
  using Sink = std::function<void(std::string_view data)>;

  explicit SseParser(size_t event_bytes_max = size_t{4} << 20) : event_bytes_max_(event_bytes_max) {}

  /// Takes the next bytes and calls `sink` with the data of every event that they complete. Errors: too_large (a line
  /// or an event over the limit); nothing may be pushed after that.
  Result<void> push(std::string_view bytes, const Sink& sink);

 private:
  void take_line(std::string_view line, const Sink& sink);

  size_t event_bytes_max_;
  std::string line_;  // a line without its end
  std::string data_;
  bool has_data_ = false;
  bool after_cr_ = false;  // an LF now would belong to the CR before it
  bool at_start_ = true;   // no line was taken: a byte order mark may come
};

}  // namespace keye::loadtest
