// Reading the fields of one JSON object, so that every error names the field and no field goes unread.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace keye::text {

class JsonFields {
 public:
  /// The object must outlive this. Errors: corrupt_data (not an object), unsupported (a field that is not in `known`).
  static Result<JsonFields> open(const Json& object, std::string where, std::initializer_list<std::string_view> known);

  const std::string& where() const { return where_; }
  std::string where(std::string_view name) const;

  /// The field, or null where it is absent or null.
  const Json* find(std::string_view name) const;

  // Errors of the rest: corrupt_data, for a field that is missing or of another type.
  Result<const Json*> need(std::string_view name) const;
  /// Without a fallback the field must be there.
  Result<bool> boolean(std::string_view name, std::optional<bool> fallback = {}) const;
  Result<std::string> string(std::string_view name) const;
  Result<const Json*> array(std::string_view name) const;

 private:
  JsonFields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  const Json* object_;
  std::string where_;
};

/// The "type" of a part of a tokenizer.json. Errors: corrupt_data.
Result<std::string> type_of(const Json& part, std::string_view where);

/// A value as text for error messages, shortened.
std::string show_json(const Json& value);

}  // namespace keye::text
