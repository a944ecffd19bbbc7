#include "text/json_fields.h"

#include <algorithm>

namespace keye::text {

Result<JsonFields> JsonFields::open(const Json& object, std::string where,
                                    std::initializer_list<std::string_view> known) {
  if (!object.is_object()) {
    return make_error(ErrorCode::corrupt_data, where, "expected an object, found {}", object.type_name());
  }
  for (const auto& field : object.items()) {
    if (std::find(known.begin(), known.end(), field.key()) == known.end()) {
      return make_error(ErrorCode::unsupported, where, "field \"{}\" is not known", field.key());
    }
  }
  return JsonFields(object, std::move(where));
}

std::string JsonFields::where(std::string_view name) const { return fmt::format("{}.{}", where_, name); }

const Json* JsonFields::find(std::string_view name) const {
  const auto field = object_->find(name);
  return field == object_->end() || field->is_null() ? nullptr : &*field;
}

Result<const Json*> JsonFields::need(std::string_view name) const {
  if (const Json* field = find(name)) return field;
  return make_error(ErrorCode::corrupt_data, where_, "field \"{}\" is missing", name);
}

Result<bool> JsonFields::boolean(std::string_view name, std::optional<bool> fallback) const {
  if (fallback && find(name) == nullptr) return *fallback;
  KEYE_TRY(const Json* const field, need(name));
  if (field->is_boolean()) return field->get<bool>();
  return make_error(ErrorCode::corrupt_data, where(name), "expected true or false, found {}", show_json(*field));
}

Result<std::string> JsonFields::string(std::string_view name) const {
  KEYE_TRY(const Json* const field, need(name));
  if (field->is_string()) return field->get<std::string>();
  return make_error(ErrorCode::corrupt_data, where(name), "expected a string, found {}", show_json(*field));
}

Result<const Json*> JsonFields::array(std::string_view name) const {
  KEYE_TRY(const Json* const field, need(name));
  if (field->is_array()) return field;
  return make_error(ErrorCode::corrupt_data, where(name), "expected an array, found {}", show_json(*field));
}

Result<std::string> type_of(const Json& part, std::string_view where) {
  if (part.is_object()) {
    const auto type = part.find("type");
    if (type != part.end() && type->is_string()) return type->get<std::string>();
  }
  return make_error(ErrorCode::corrupt_data, where, "expected an object with a string \"type\", found {}",
                    show_json(part));
}

std::string show_json(const Json& value) {
  if (value.is_structured()) return fmt::format("an {} of {}", value.type_name(), value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  return text;
}

}  // namespace keye::text
