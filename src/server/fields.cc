#include "server/fields.h"

#include <cmath>

namespace keye::server {

using text::Kind;
using text::Value;

std::string shown(const Value& value) {
  switch (value.kind()) {
    case Kind::boolean:
      return value.boolean() ? "true" : "false";
    case Kind::integer:
      return fmt::format("{}", value.integer());
    case Kind::big_integer:
      return "a number of too many digits";
    case Kind::real:
      return fmt::format("{}", value.real());
    case Kind::string:
      if (value.text().size() <= 40) return fmt::format("\"{}\"", value.text());
      return fmt::format("a string of {} bytes", value.text().size());
    case Kind::list:
      return fmt::format("a list of {}", value.items().size());
    case Kind::dict:
      return "an object";
    default:
      return "null";
  }
}

const Value* Fields::find(std::string_view name) {
  known_.emplace(name);
  const Value* value = object_.find(name);
  return value == nullptr || value->is(Kind::none) ? nullptr : value;
}

Error Fields::wrong(std::string_view name, std::string message) const {
  return {ErrorCode::invalid_argument, std::move(message), where_ + std::string(name)};
}

Error Fields::expected(std::string_view name, std::string_view what, const Value& found) const {
  return wrong(name, fmt::format("should be {}, got {}", what, shown(found)));
}

Result<std::optional<bool>> Fields::boolean(std::string_view name) {
  const Value* value = find(name);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is(Kind::boolean)) return expected(name, "true or false", *value);
  return std::optional<bool>(value->boolean());
}

Result<std::optional<int64_t>> Fields::integer(std::string_view name, int64_t low, int64_t high) {
  const Value* value = find(name);
  if (value == nullptr) return std::optional<int64_t>();
  // 5.0 is a whole number to JSON.
  std::optional<int64_t> number;
  if (value->is(Kind::integer)) number = value->integer();
  if (value->is(Kind::real) && std::trunc(value->real()) == value->real() && std::abs(value->real()) < 1e15)
    number = static_cast<int64_t>(value->real());
  if (!number || *number < low || *number > high) {
    return expected(name, fmt::format("a whole number in [{}, {}]", low, high), *value);
  }
  return number;
}

Result<std::optional<double>> Fields::number(std::string_view name, double low, double high) {
  const Value* value = find(name);
  if (value == nullptr) return std::optional<double>();
  const bool is_number = value->is(Kind::integer) || value->is(Kind::real);
  if (!is_number || !(value->real() >= low && value->real() <= high)) {
    return expected(name, fmt::format("a number in [{}, {}]", low, high), *value);
  }
  return std::optional<double>(value->real());
}

Result<std::optional<std::string>> Fields::string(std::string_view name, size_t bytes_max) {
  const Value* value = find(name);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string() || value->text().size() > bytes_max) {
    return expected(name, fmt::format("a string of at most {} bytes", bytes_max), *value);
  }
  return std::optional<std::string>(value->text());
}

Result<std::vector<std::string>> Fields::strings(std::string_view name, size_t count_max, size_t bytes_max) {
  std::vector<std::string> strings;
  const Value* value = find(name);
  if (value == nullptr) return strings;
  const std::string what =
      fmt::format("a string or a list of at most {}, each of at most {} bytes", count_max, bytes_max);
  const auto add = [&](const Value& item) {
    if (!item.is_string() || item.text().size() > bytes_max) return false;
    strings.push_back(item.text());
    return true;
  };
  if (!value->is(Kind::list)) {
    if (!add(*value)) return expected(name, what, *value);
    return strings;
  }
  if (value->items().size() > count_max) return expected(name, what, *value);
  for (const Value& item : value->items()) {
    if (!add(item)) return expected(name, what, item);
  }
  return strings;
}

Result<std::vector<int32_t>> Fields::token_ids(std::string_view name, size_t count_max) {
  std::vector<int32_t> ids;
  const Value* value = find(name);
  if (value == nullptr) return ids;
  const std::string what = fmt::format("a token id or a list of at most {}", count_max);
  const auto add = [&](const Value& item) {
    if (!item.is(Kind::integer) || item.integer() < 0 || item.integer() > INT32_MAX) return false;
    ids.push_back(static_cast<int32_t>(item.integer()));
    return true;
  };
  if (!value->is(Kind::list)) {
    if (!add(*value)) return expected(name, what, *value);
    return ids;
  }
  if (value->items().size() > count_max) return expected(name, what, *value);
  ids.reserve(value->items().size());
  for (const Value& item : value->items()) {
    if (!add(item)) return expected(name, what, item);
  }
  return ids;
}

Result<const text::Dict*> Fields::object(std::string_view name) {
  const Value* value = find(name);
  if (value == nullptr) return static_cast<const text::Dict*>(nullptr);
  if (!value->is(Kind::dict)) return expected(name, "an object", *value);
  return &value->dict();
}

Result<void> Fields::refuse_others() const {
  for (const auto& [key, value] : object_.items()) {
    const std::string name = key.is_string() ? key.text() : "";
    if (!known_.contains(name) && !value.is(Kind::none))
      return wrong(name.substr(0, 100), "is not a field of this request");
  }
  return {};
}

}  // namespace keye::server
