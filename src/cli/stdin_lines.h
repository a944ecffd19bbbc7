// Standard input line by line, each as soon as it is there: for commands that serve as a co-process.
#pragma once

#include <stop_token>
#include <string>

#include "base/result.h"

namespace keye::cli {

class StdinLines {
 public:
  explicit StdinLines(size_t line_bytes_max = size_t{1} << 30) : line_bytes_max_(line_bytes_max) {}

  /// Puts the next line, without its newline, into `line`; false at the end. A last line without a newline counts, an
  /// empty one does not. Also false once `stop` is requested. Errors: io, too_large.
  Result<bool> next(std::string& line, const std::stop_token& stop = {});
  /// The number of the line that next() gave last, from 1.
  int64_t number() const { return number_; }

 private:
  size_t line_bytes_max_;
  std::string buffer_;
  size_t at_ = 0;
  int64_t number_ = 0;
};

}  // namespace keye::cli
