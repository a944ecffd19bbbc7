// One line per event on standard error. The sink is the only global of the program.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace keye {

enum class LogLevel { debug, info, warning, error };
std::string_view log_level_name(LogLevel level);

/// Names and values that belong to a message, for programs that read logs.
using LogFields = std::vector<std::pair<std::string_view, std::string>>;

struct LogRecord {
  LogLevel level = LogLevel::info;
  std::string_view message;
  const LogFields& fields;
};
using LogSink = std::function<void(const LogRecord&)>;

/// Replaces the sink. Not to be called while other threads log.
void set_log_sink(LogSink sink);
void log_event(LogLevel level, std::string_view message, const LogFields& fields = {});

template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_event(level, fmt::format(format, std::forward<Args>(args)...));
}

/// For people: "2026-11-25T21:57:03.120 info message name=value".
void log_as_text(const LogRecord& record);
/// For programs: {"time": ..., "level": ..., "message": ..., "name": "value"}.
void log_as_json(const LogRecord& record);

}  // namespace keye
