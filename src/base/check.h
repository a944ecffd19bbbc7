// Checks for what only our own bug can cause. They are always on, and end the process with the place and the reason.
#pragma once

#include <fmt/format.h>

#include <string>

namespace keye {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

namespace internal {
inline std::string check_message() { return {}; }
template <class... Args>
std::string check_message(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace internal
}  // namespace keye

#define KEYE_CHECK(condition, ...)                                                                        \
  do {                                                                                                    \
    if (!(condition)) [[unlikely]] {                                                                      \
      ::keye::check_failed(__FILE__, __LINE__, #condition, ::keye::internal::check_message(__VA_ARGS__)); \
    }                                                                                                     \
  } while (false)

/// For inner loops: compiled out of release builds.
#ifdef NDEBUG
#define KEYE_DCHECK(condition, ...) \
  do {                              \
  } while (false)
#else
#define KEYE_DCHECK(condition, ...) KEYE_CHECK(condition, __VA_ARGS__)
#endif
