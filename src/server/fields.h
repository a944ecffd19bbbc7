// Typed access to the fields of a request's JSON, with errors that name the field, what was expected and what came.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/value.h"

namespace keye::server {

/// Null counts as absent everywhere, whatever the field. Every field that is asked for is known; refuse_others()
/// refuses the rest.
class Fields {
 public:
  /// `object` must outlive this; `where` is put before the names in errors ("stream_options.").
  explicit Fields(const text::Dict& object, std::string where = {}) : object_(object), where_(std::move(where)) {}

  /// The value, or null.
  const text::Value* find(std::string_view name);
  Result<std::optional<bool>> boolean(std::string_view name);
  Result<std::optional<int64_t>> integer(std::string_view name, int64_t low, int64_t high);
  Result<std::optional<double>> number(std::string_view name, double low, double high);
  Result<std::optional<std::string>> string(std::string_view name, size_t bytes_max);
  /// One string or a list of them.
  Result<std::vector<std::string>> strings(std::string_view name, size_t count_max, size_t bytes_max);
  /// One whole number or a list of them, each in [0, 2^31).
  Result<std::vector<int32_t>> token_ids(std::string_view name, size_t count_max);
  /// The object in this field, or null.
  Result<const text::Dict*> object(std::string_view name);

  /// Errors: invalid_argument, naming a field that nobody asked for.
  Result<void> refuse_others() const;
  Error wrong(std::string_view name, std::string message) const;
  /// The full name of a field, for an object inside this one.
  std::string place(std::string_view name) const { return where_ + std::string(name); }

 private:
  Error expected(std::string_view name, std::string_view what, const text::Value& found) const;

  const text::Dict& object_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
};

/// What a value is, for an error: "a string", "12".
std::string shown(const text::Value& value);

}  // namespace keye::server
