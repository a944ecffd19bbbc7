#include "base/log.h"

#include <cstdio>
#include <utility>

namespace keye {
namespace {

void write_to_stderr(LogLevel level, std::string_view message) {
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  if (level == LogLevel::debug) return;
  std::fprintf(stderr, "keye: %s: %.*s\n", kNames[static_cast<int>(level)], static_cast<int>(message.size()),
               message.data());
}

LogSink& sink() {
  static LogSink instance = write_to_stderr;
  return instance;
}

}  // namespace

void set_log_sink(LogSink replacement) { sink() = std::move(replacement); }

void log_message(LogLevel level, std::string_view message) { sink()(level, message); }

}  // namespace keye
