#include "cli/stdin_lines.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace keye::cli {

Result<bool> StdinLines::next(std::string& line, const std::stop_token& stop) {
  size_t searched = at_;
  while (true) {
    if (const size_t newline = buffer_.find('\n', searched); newline != std::string::npos) {
      line.assign(buffer_, at_, newline - at_);
      at_ = newline + 1;
      ++number_;
      return true;
    }
    buffer_.erase(0, at_);
    at_ = 0;
    searched = buffer_.size();
    if (buffer_.size() > line_bytes_max_) {
      return make_error(ErrorCode::too_large, "standard input", "line {} is over {} bytes", number_ + 1,
                        line_bytes_max_);
    }
    while (stop.stop_possible()) {  // looks at the token ten times a second while nothing comes
      if (stop.stop_requested()) return false;
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (::poll(&input, 1, 100) > 0) break;
    }
    char block[65536];
    const ssize_t got = ::read(STDIN_FILENO, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return make_error(ErrorCode::io, "standard input", "cannot read: {}", std::strerror(errno));
    if (got == 0) break;
    buffer_.append(block, static_cast<size_t>(got));
  }
  if (buffer_.empty()) return false;
  line = std::move(buffer_);
  buffer_.clear();
  ++number_;
  return true;
}

}  // namespace keye::cli
