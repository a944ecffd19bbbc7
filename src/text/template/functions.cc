// The functions that every chat template can call.
#include <ctime>

#include "text/template/builtin_tables.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"

namespace keye::text {
namespace {

constexpr int64_t kRangeMax = 100'000;  // the sandbox's own limit

Result<Value> make_range(Interpreter& interpreter, const Value&, Arguments& arguments) {
  const Values& given = arguments.positional;
  if (given.empty() || given.size() > 3) return failure("range takes 1 to 3 arguments");
  int64_t numbers[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    KEYE_TRY(numbers[given.size() == 1 ? 1 : i], interpreter.index(given[i]));
  }
  if (numbers[2] == 0) return failure("the step of a range cannot be zero");
  auto range = std::make_shared<Range>(numbers[0], numbers[1], numbers[2]);
  if (range->size() > kRangeMax)
    return make_error(ErrorCode::too_large, "", "a range has more than {} numbers", kRangeMax);
  return Value::object(std::move(range));
}

Result<Value> make_namespace(Interpreter& interpreter, const Value&, Arguments& arguments) {
  KEYE_TRY(Dict attributes, interpreter.make_dict(arguments));
  for (const Dict::Item& item : attributes.items()) {
    if (item.key.is_string() && item.key.text().starts_with('_')) {
      return failure("a namespace cannot hold \"{}\": names with a leading underscore are refused", item.key.text());
    }
  }
  return interpreter.new_namespace(std::move(attributes));
}

Result<Value> make_cycler(Interpreter& interpreter, const Value&, Arguments& arguments) {
  if (arguments.positional.empty()) return failure("cycler needs values");
  KEYE_TRY(const Value items, interpreter.tuple(std::move(arguments.positional)));
  return Value::object(std::make_shared<Cycler>(items.items()), items.depth());
}

/// strftime on the time of the render call. What Python's naive times do not have, a zone, is empty.
Result<Value> format_time(Interpreter& interpreter, const Value&, Arguments& arguments) {
  KEYE_TRY(const Marked* format, text_argument(arguments.positional[0], "the format of strftime_now"));
  std::string pattern;
  for (size_t i = 0; i < format->size(); ++i) {
    if (format->text[i] != '%' || i + 1 == format->size()) {
      pattern.push_back(format->text[i]);
      continue;
    }
    const char field = format->text[++i];
    if (field == 'f') {
      pattern += fmt::format("{:06}", interpreter.now().microsecond);
    } else if (field != 'z' && field != 'Z') {
      pattern += {'%', field};
    }
  }
  if (pattern.find('\0') != std::string::npos) return failure("the format of strftime_now has a zero byte");
  if (pattern.empty()) return Value("");
  KEYE_TRY_VOID(interpreter.check_bytes(pattern.size() * 8));
  // One more character, so that an empty result can be told from a buffer that is too small.
  pattern.push_back('.');
  std::string text(pattern.size() * 32 + 256, '\0');
  const size_t size = std::strftime(text.data(), text.size(), pattern.c_str(), &interpreter.now().time);
  if (size == 0) return failure("the format of strftime_now makes too long a text");
  text.resize(size - 1);
  return interpreter.string(Marked(std::move(text)));
}

constexpr Builtin kFunctions[] = {
    {"range", "*", false, make_range},
    {"namespace", "*", true, make_namespace},
    {"dict", "*", true,
     [](Interpreter& interpreter, const Value&, Arguments& arguments) -> Result<Value> {
       KEYE_TRY(Dict dict, interpreter.make_dict(arguments));
       return interpreter.dict(std::move(dict));
     }},
    {"cycler", "*", false, make_cycler},
    {"joiner", "sep?", true,
     [](Interpreter&, const Value&, Arguments& arguments) -> Result<Value> {
       const Value& separator = arguments.positional[0];
       const Value joined = separator.is(Kind::missing) ? Value(", ") : separator;
       if (joined.depth() >= kValueDepthMax) return failure("a joiner is nested deeper than {} levels", kValueDepthMax);
       return Value::object(std::make_shared<Joiner>(joined), joined.depth() + 1);
     }},
    {"raise_exception", "message", true,
     [](Interpreter& interpreter, const Value&, Arguments& arguments) -> Result<Value> {
       KEYE_TRY(const Marked message, interpreter.str(arguments.positional[0]));
       return failure("{}", message.text);
     }},
    {"strftime_now", "format", true, format_time},
    {"lipsum", "*", true,
     [](Interpreter&, const Value&, Arguments&) -> Result<Value> {
       return make_error(ErrorCode::unsupported, "", "lipsum is not supported: a prompt must not depend on chance");
     }},
};

}  // namespace

std::span<const Builtin> global_functions() { return kFunctions; }

}  // namespace keye::text
