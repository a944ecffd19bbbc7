#include "base/log.h"

#include <chrono>
#include <cstdio>
#include <ctime>

#include "base/json.h"

namespace keye {
namespace {

/// UTC with milliseconds.
std::string now_text() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm t = {};
  gmtime_r(&seconds, &t);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour,
                     t.tm_min, t.tm_sec, milliseconds);
}

/// Bytes that steer a terminal, or would make one line two, are written as \xNN.
std::string printable(std::string_view text, unsigned char last = 0xff) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || byte > last) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

/// Values come from anywhere: plain ASCII, and in quotes where they could be taken for more than one.
std::string shown_value(std::string_view value) {
  constexpr unsigned char kAsciiMax = 0x7e;
  if (!value.empty() && value.find_first_of(" =\"\\") == std::string_view::npos) return printable(value, kAsciiMax);
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out.push_back('\\');
    out += printable({&c, 1}, kAsciiMax);
  }
  return out + '"';
}

void write_plain(const LogRecord& record) {
  if (record.level == LogLevel::debug) return;
  const std::string line = fmt::format("keye: {}: {}\n", log_level_name(record.level), record.message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

LogSink& sink() {
  static LogSink instance = write_plain;
  return instance;
}

}  // namespace

std::string_view log_level_name(LogLevel level) {
  static constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<int>(level)];
}

void set_log_sink(LogSink replacement) { sink() = std::move(replacement); }

void log_event(LogLevel level, std::string_view message, const LogFields& fields) { sink()({level, message, fields}); }

void log_as_text(const LogRecord& record) {
  if (record.level == LogLevel::debug) return;
  std::string line = fmt::format("{} {} {}", now_text(), log_level_name(record.level), printable(record.message));
  for (const auto& [name, value] : record.fields) line += fmt::format(" {}={}", name, shown_value(value));
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void log_as_json(const LogRecord& record) {
  if (record.level == LogLevel::debug) return;
  OrderedJson json = {{"time", now_text()}, {"level", log_level_name(record.level)}, {"message", record.message}};
  for (const auto& [name, value] : record.fields) json[std::string(name)] = value;
  const std::string line = json.dump(-1, ' ', true, OrderedJson::error_handler_t::replace) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace keye
