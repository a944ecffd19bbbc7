// Small help for reading messages.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "text/value.h"

namespace keye::prompt {

/// The value of a field; null if this is no object, the field is missing, or none.
inline const text::Value* field(const text::Value& value, std::string_view key) {
  if (!value.is(text::Kind::dict)) return nullptr;
  const text::Value* found = value.dict().find(key);
  return found == nullptr || found->is(text::Kind::none) ? nullptr : found;
}

inline Error refuse(const std::string& where, std::string message, ErrorCode code = ErrorCode::invalid_argument) {
  return {code, std::move(message), where};
}

}  // namespace keye::prompt
