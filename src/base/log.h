// One line per event on standard error. The sink is the only global of the program.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>

namespace keye {

enum class LogLevel { debug, info, warning, error };

using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces the sink. Not to be called while other threads log.
void set_log_sink(LogSink sink);
void log_message(LogLevel level, std::string_view message);

template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_message(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace keye
