// The tests of jinja2: what stands after `is`.
#include "text/template/builtin_tables.h"
#include "text/template/characters.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"

namespace keye::text {
namespace {

Result<Value> remainder_is(Interpreter& interpreter, const Value& value, const Value& divisor, int remainder) {
  KEYE_TRY(const Value rest, interpreter.binary(ExprKind::modulo, value, divisor));
  KEYE_TRY(const bool same, interpreter.equals(rest, Value(remainder)));
  return Value(same);
}

template <CompareOp op>
Result<Value> compares(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool holds, interpreter.compare(op, value, arguments.positional[0]));
  return Value(holds);
}

template <Kind kind>
Result<Value> is_kind(Interpreter&, const Value& value, Arguments&) {
  return Value(value.is(kind));
}

/// str.islower / str.isupper of the value's text.
Result<Value> has_case(Interpreter& interpreter, const Value& value, bool upper) {
  KEYE_TRY(const Marked text, interpreter.str(value));
  bool cased = false;
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    if (upper ? unicode::is_lower(here.code) || unicode::is_title(here.code)
              : unicode::is_upper(here.code) || unicode::is_title(here.code)) {
      return Value(false);
    }
    cased = cased || unicode::is_cased(here.code);
    at += here.bytes;
  }
  return Value(cased);
}

Result<Value> knows(const Value& name, const Builtin* (*find)(std::string_view), bool refused) {
  if (!Dict::hashable(name) && !is_hashable_object(name))
    return failure("a value of type {} cannot be a name", type_name(name));
  return Value(name.is_string() && (find(name.text()) != nullptr || (refused && !refused_filter(name.text()).empty())));
}

constexpr Builtin kTests[] = {
    {"defined", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> { return Value(!value.is(Kind::undefined)); }},
    {"undefined", "", false, is_kind<Kind::undefined>},
    {"none", "", false, is_kind<Kind::none>},
    {"boolean", "", false, is_kind<Kind::boolean>},
    {"float", "", false, is_kind<Kind::real>},
    {"string", "", false, is_kind<Kind::string>},
    {"mapping", "", false, is_kind<Kind::dict>},
    {"true", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       return Value(value.is(Kind::boolean) && value.boolean());
     }},
    {"false", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       return Value(value.is(Kind::boolean) && !value.boolean());
     }},
    {"integer", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       return Value(value.is(Kind::integer) || value.is(Kind::big_integer));
     }},
    {"number", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       return Value(value.is_number() || value.is(Kind::big_integer));
     }},
    {"sequence", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) -> Result<Value> {
       return Value(interpreter.has_length(value) && (!value.is(Kind::object) || value.as<Range>() != nullptr));
     }},
    {"iterable", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) -> Result<Value> {
       return Value(interpreter.is_iterable(value));
     }},
    {"callable", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       const auto* object = value.as<TemplateObject>();
       return Value(value.is(Kind::undefined) || (object != nullptr && object->callable()));
     }},
    {"escaped", "", false,
     [](Interpreter&, const Value& value, Arguments&) -> Result<Value> {
       return Value(value.is_string() && value.string().markup);
     }},
    {"sameas", "other", true,
     [](Interpreter&, const Value& value, Arguments& arguments) -> Result<Value> {
       return Value(value.identical(arguments.positional[0]));
     }},
    {"in", "seq", true, compares<CompareOp::in>},
    {"odd", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) {
       return remainder_is(interpreter, value, Value(2), 1);
     }},
    {"even", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) {
       return remainder_is(interpreter, value, Value(2), 0);
     }},
    {"divisibleby", "num", true,
     [](Interpreter& interpreter, const Value& value, Arguments& arguments) {
       return remainder_is(interpreter, value, arguments.positional[0], 0);
     }},
    {"lower", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) { return has_case(interpreter, value, false); }},
    {"upper", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) { return has_case(interpreter, value, true); }},
    {"filter", "", false, [](Interpreter&, const Value& value, Arguments&) { return knows(value, find_filter, true); }},
    {"test", "", false, [](Interpreter&, const Value& value, Arguments&) { return knows(value, find_test, false); }},
    {"==", "other", false, compares<CompareOp::equal>},
    {"eq", "other", false, compares<CompareOp::equal>},
    {"equalto", "other", false, compares<CompareOp::equal>},
    {"!=", "other", false, compares<CompareOp::not_equal>},
    {"ne", "other", false, compares<CompareOp::not_equal>},
    {">", "other", false, compares<CompareOp::greater>},
    {"gt", "other", false, compares<CompareOp::greater>},
    {"greaterthan", "other", false, compares<CompareOp::greater>},
    {">=", "other", false, compares<CompareOp::greater_equal>},
    {"ge", "other", false, compares<CompareOp::greater_equal>},
    {"<", "other", false, compares<CompareOp::less>},
    {"lt", "other", false, compares<CompareOp::less>},
    {"lessthan", "other", false, compares<CompareOp::less>},
    {"<=", "other", false, compares<CompareOp::less_equal>},
    {"le", "other", false, compares<CompareOp::less_equal>},
};

}  // namespace

std::span<const Builtin> value_tests() { return kTests; }

}  // namespace keye::text
