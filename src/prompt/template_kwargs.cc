#include "prompt/template_kwargs.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace keye::prompt {
namespace {

using text::Kind;
using text::Value;

constexpr std::string_view kWhere = "chat_template_kwargs";

constexpr std::array<std::string_view, 9> kKnown = {
    "enable_thinking", "thinking",      "reasoning_effort", "thinking_budget",       "preserve_thinking",
    "clear_thinking",  "add_vision_id", "date_string",      "tools_in_user_message",
};

/// Errors show names that a person may have written, not what somebody fills a log with.
constexpr size_t kShownBytesMax = 64;

Error refuse_name(std::string_view name) {
  if (name.size() > kShownBytesMax) {
    return make_error(ErrorCode::unsupported, kWhere, "a name of {} bytes is unknown; known are {}", name.size(),
                      fmt::join(kKnown, ", "));
  }
  return make_error(ErrorCode::unsupported, fmt::format("{}.{}", kWhere, name),
                    "requests cannot set this for a chat template; they can set {}", fmt::join(kKnown, ", "));
}

/// The value as a template gets it.
Result<Value> check_value(std::string_view name, const Value& value) {
  const std::string where = fmt::format("{}.{}", kWhere, name);
  if (value.is(Kind::boolean) || value.is(Kind::integer) || value.is(Kind::real)) return value;
  if (!value.is_string()) {
    return make_error(ErrorCode::invalid_argument, where, "should be a boolean, a number or a string, not a {}",
                      text::type_name(value));
  }
  if (value.text().size() > kTemplateKwargBytesMax) {
    return make_error(ErrorCode::too_large, where, "has {} bytes, the limit is {}", value.text().size(),
                      kTemplateKwargBytesMax);
  }
  return Value(text::Marked(value.text(), text::kOriginUser));
}

}  // namespace

Result<text::Dict> check_template_kwargs(const Value& kwargs) {
  text::Dict variables;
  if (kwargs.is(Kind::none)) return variables;
  if (!kwargs.is(Kind::dict)) {
    return make_error(ErrorCode::invalid_argument, kWhere, "should be an object, not a {}", text::type_name(kwargs));
  }
  for (const auto& [key, value] : kwargs.dict().items()) {
    const std::string_view name = key.is_string() ? std::string_view(key.text()) : std::string_view();
    if (std::find(kKnown.begin(), kKnown.end(), name) == kKnown.end()) return refuse_name(name);
    KEYE_TRY(Value checked, check_value(name, value));
    variables.set(name, std::move(checked));
  }
  return variables;
}

}  // namespace keye::prompt
