// Errors that the outside world can cause: a user, a file, a network, a configuration.
// What only a bug of ours can cause is a KEYE_CHECK (base/check.h).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"

namespace keye {

enum class ErrorCode : uint8_t {
  invalid_argument,  // the caller's words are off: a flag, a field, a message
  not_found,         // a file or name that does not exist
  unsupported,       // well-formed, but not something this program does
  too_large,         // over a limit
  overloaded,        // a queue or pool is full
  deadline,          // out of time
  cancelled,         // stopped on request
  io,                // the system refused: read, write, map, connect
  corrupt_data,      // a file or stream that contradicts itself
  unavailable,       // the other side is not there now
  internal,          // should not happen, but must not end the process
};

std::string_view error_code_name(ErrorCode code);

/// What went wrong. `message` says what, what was expected and what was found; `where` names the field, file, tensor or
/// position, and may be empty.
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  std::string where;

  std::string to_string() const { return where.empty() ? message : where + ": " + message; }
};

/// Builds an error with a formatted message: `return make_error(ErrorCode::io, path, "cannot open: {}", reason);`
template <class... Args>
[[nodiscard]] Error make_error(ErrorCode code, std::string_view where, fmt::format_string<Args...> format,
                               Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...), std::string(where)};
}

/// A value or an Error, with std::expected's member names. `Result<void>` holds nothing or an Error.
template <class T>
class [[nodiscard]] Result {
  using Stored = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

 public:
  using value_type = T;

  Result() requires std::is_void_v<T>
  = default;
  template <class U = Stored>
  requires(!std::is_void_v<T> && std::is_constructible_v<Stored, U&&> &&
           !std::is_same_v<std::remove_cvref_t<U>, Result> && !std::is_same_v<std::remove_cvref_t<U>, Error>)
      Result(U&& value)  // NOLINT(bugprone-forwarding-reference-overload): constrained above
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}            // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  Stored& value() & {
    KEYE_CHECK(has_value(), "Result holds an error: {}", error().to_string());
    return *std::get_if<0>(&state_);
  }
  const Stored& value() const& {
    KEYE_CHECK(has_value(), "Result holds an error: {}", error().to_string());
    return *std::get_if<0>(&state_);
  }
  Stored&& value() && { return std::move(value()); }
  Stored& operator*() & { return value(); }
  const Stored& operator*() const& { return value(); }
  Stored&& operator*() && { return std::move(value()); }
  Stored* operator->() { return &value(); }
  const Stored* operator->() const { return &value(); }

  const Error& error() const {
    KEYE_CHECK(!has_value(), "Result holds a value, not an error");
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<Stored, Error> state_;
};

}  // namespace keye

#define KEYE_CONCAT_INNER(a, b) a##b
#define KEYE_CONCAT(a, b) KEYE_CONCAT_INNER(a, b)

/// KEYE_TRY(auto file, open(path)); returns the error from this function, or defines `file`.
#define KEYE_TRY(declaration, ...) KEYE_TRY_INNER(KEYE_CONCAT(keye_try_, __LINE__), declaration, __VA_ARGS__)
#define KEYE_TRY_INNER(temporary, declaration, ...)     \
  auto temporary = (__VA_ARGS__);                       \
  if (!temporary.has_value()) return temporary.error(); \
  declaration = std::move(temporary).value()

/// KEYE_TRY_VOID(write(file)); returns the error from this function, if there is one.
#define KEYE_TRY_VOID(...)                                            \
  do {                                                                \
    if (auto keye_result = (__VA_ARGS__); !keye_result.has_value()) { \
      return keye_result.error();                                     \
    }                                                                 \
  } while (false)
