#include "base/machine.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/file.h"

namespace keye {
namespace {

constexpr size_t kSystemFileBytes = size_t{1} << 20;

/// The number behind `name` in lines like "MemTotal:  24648128 kB", in bytes.
std::optional<size_t> kilobytes_of(const Path& file, std::string_view name) {
  const auto text = read_file(file, kSystemFileBytes);
  if (!text) return std::nullopt;
  const size_t at = text->find(std::string(name) + ":");
  if (at == std::string::npos) return std::nullopt;
  const size_t digits = text->find_first_of("0123456789", at);
  size_t value = 0;
  if (digits == std::string::npos) return std::nullopt;
  std::from_chars(text->data() + digits, text->data() + text->size(), value);
  return value * 1024;
}

/// A file that holds one number; nothing for "max" and for what is not there.
std::optional<size_t> number_in(const Path& file) {
  const auto text = read_file(file, kSystemFileBytes);
  size_t value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

/// Of the control group (version 2, then 1) that a container shows as its own.
std::optional<size_t> group_number(const char* v2, const char* v1) {
  if (const auto value = number_in(Path("/sys/fs/cgroup") / v2)) return value;
  return number_in(Path("/sys/fs/cgroup/memory") / v1);
}

}  // namespace

size_t memory_limit_bytes() {
  const size_t machine = kilobytes_of("/proc/meminfo", "MemTotal").value_or(size_t{1} << 30);
  return std::min(machine, group_number("memory.max", "memory.limit_in_bytes").value_or(machine));
}

size_t memory_available_bytes() {
  const size_t machine = kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0);
  const auto limit = group_number("memory.max", "memory.limit_in_bytes");
  const auto used = group_number("memory.current", "memory.usage_in_bytes");
  if (!limit || !used) return machine;
  return std::min(machine, *limit - std::min(*limit, *used));
}

size_t resident_bytes() { return kilobytes_of("/proc/self/status", "VmRSS").value_or(0); }

std::string processor_name() {
  const auto text = read_file("/proc/cpuinfo", kSystemFileBytes);
  if (!text) return {};
  const size_t at = text->find("model name");
  if (at == std::string::npos) return {};
  const size_t begin = std::min(text->find(": ", at) + 2, text->size());
  return text->substr(begin, text->find('\n', begin) - begin);
}

}  // namespace keye
