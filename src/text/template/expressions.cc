// The interpreter's half that evaluates expressions.
#include <algorithm>

#include "text/template/interpreter.h"
#include "text/template/objects.h"

namespace keye::text {

Result<Value> Interpreter::eval(const Expr& expr) {
  if (expr.kind == ExprKind::constant) return expr.value;
  if (expr.kind == ExprKind::name) {
    const Value& value = variable(expr.variable);
    if (value.is(Kind::missing)) return Value::undefined(fmt::format("\"{}\" is undefined", expr.name));
    return value;
  }
  const Depth depth(*this);
  if (auto allowed = check_depth(); !allowed) return locate(allowed.error(), expr.at);
  if (auto allowed = step(); !allowed) return locate(allowed.error(), expr.at);
  auto value = eval_compound(expr);
  if (!value) return locate(value.error(), expr.at);
  return value;
}

Result<Value> Interpreter::eval_compound(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::tuple:
    case ExprKind::list:
      return eval_sequence(expr);
    case ExprKind::dict:
      return eval_dict(expr);
    case ExprKind::attribute: {
      KEYE_TRY(const Value object, eval(*expr.children[0]));
      return attribute(object, expr.name);
    }
    case ExprKind::item: {
      KEYE_TRY(const Value object, eval(*expr.children[0]));
      KEYE_TRY(const Value key, eval(*expr.children[1]));
      return item(object, key);
    }
    case ExprKind::slice:
      return eval_slice(expr);
    case ExprKind::call:
      return eval_call(expr);
    case ExprKind::filter:
      return eval_filter(expr);
    case ExprKind::test:
      return eval_test(expr);
    case ExprKind::conditional:
      return eval_conditional(expr);
    case ExprKind::negative:
    case ExprKind::positive:
    case ExprKind::logical_not:
      return eval_unary(expr);
    case ExprKind::logical_and:
    case ExprKind::logical_or:
      return eval_logical(expr);
    case ExprKind::concat:
      return eval_concat(expr);
    case ExprKind::compare:
      return eval_compare(expr);
    default:
      return eval_binary(expr);
  }
}

Result<Value> Interpreter::eval_logical(const Expr& expr) {
  KEYE_TRY(Value left, eval(*expr.children[0]));
  KEYE_TRY(const bool holds, truthy(left));
  if (holds == (expr.kind == ExprKind::logical_or)) return left;
  return eval(*expr.children[1]);
}

Result<Value> Interpreter::eval_conditional(const Expr& expr) {
  KEYE_TRY(const Value test, eval(*expr.children[1]));
  KEYE_TRY(const bool holds, truthy(test));
  if (holds) return eval(*expr.children[0]);
  if (expr.children[2]) return eval(*expr.children[2]);
  return Value::undefined("the inline if-expression was false and has no else");
}

Result<Value> Interpreter::eval_sequence(const Expr& expr) {
  Values items;
  items.reserve(expr.children.size());
  for (const ExprPtr& child : expr.children) {
    KEYE_TRY(Value value, eval(*child));
    items.push_back(std::move(value));
  }
  return expr.kind == ExprKind::list ? list(std::move(items)) : tuple(std::move(items));
}

Result<Value> Interpreter::eval_dict(const Expr& expr) {
  Dict items;
  for (size_t i = 0; i < expr.children.size(); i += 2) {
    KEYE_TRY(Value key, eval(*expr.children[i]));
    KEYE_TRY(Value value, eval(*expr.children[i + 1]));
    KEYE_TRY_VOID(require_hashable(key));
    items.set(std::move(key), std::move(value));
  }
  return dict(std::move(items));
}

Result<Value> Interpreter::eval_slice(const Expr& expr) {
  KEYE_TRY(const Value object, eval(*expr.children[0]));
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = Value::none();
    if (!expr.children[i + 1]) continue;
    KEYE_TRY(bounds[i], eval(*expr.children[i + 1]));
  }
  return slice(object, bounds[0], bounds[1], bounds[2]);
}

Result<Arguments> Interpreter::eval_arguments(const ArgumentExprs& exprs) {
  Arguments arguments;
  arguments.positional.reserve(exprs.positional.size());
  for (const ExprPtr& expr : exprs.positional) {
    KEYE_TRY(Value value, eval(*expr));
    arguments.positional.push_back(std::move(value));
  }
  if (exprs.star) {
    KEYE_TRY(const Value star, eval(*exprs.star));
    KEYE_TRY(const Values more, collect(star));
    arguments.positional.insert(arguments.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, expr] : exprs.named) {
    KEYE_TRY(Value value, eval(*expr));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (exprs.double_star) {
    KEYE_TRY(const Value more, eval(*exprs.double_star));
    if (!more.is(Kind::dict)) return failure("what follows ** must be a dict, not {}", text::type_name(more));
    for (const Dict::Item& item : more.dict().items()) {
      if (!item.key.is_string()) return failure("the names of arguments must be strings");
      const bool twice =
          std::ranges::any_of(exprs.named, [&](const auto& named) { return named.first == item.key.text(); });
      if (twice) return failure("the argument \"{}\" is given twice", item.key.text());
      arguments.named.emplace_back(item.key.text(), item.value);
    }
  }
  return arguments;
}

Result<Value> Interpreter::eval_call(const Expr& expr, const Value* caller) {
  KEYE_TRY(const Value callee, eval(*expr.children[0]));
  KEYE_TRY(Arguments arguments, eval_arguments(*expr.arguments));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  return call(callee, std::move(arguments));
}

Result<Value> Interpreter::call(const Value& callee, Arguments arguments) {
  if (callee.is(Kind::undefined)) return undefined_error(callee);
  auto* object = callee.as<TemplateObject>();
  if (object == nullptr || !object->callable())
    return failure("a value of type {} cannot be called", text::type_name(callee));
  return object->call(*this, std::move(arguments));
}

Result<Value> Interpreter::eval_filter(const Expr& expr, const Value* block_text) {
  Value value;
  if (expr.children[0]) {
    const bool chained = block_text != nullptr;
    KEYE_TRY(value, chained ? filter_text(*expr.children[0], *block_text) : eval(*expr.children[0]));
  } else {
    value = *block_text;
  }
  KEYE_TRY(Arguments arguments, eval_arguments(*expr.arguments));
  if (expr.builtin == nullptr) return failure("there is no filter \"{}\"", expr.name);
  return call_builtin(*this, *expr.builtin, value, std::move(arguments));
}

Result<Value> Interpreter::filter_text(const Expr& filter, const Value& text) {
  auto value = eval_filter(filter, &text);
  if (!value) return locate(value.error(), filter.at);
  return value;
}

Result<Value> Interpreter::eval_test(const Expr& expr) {
  KEYE_TRY(const Value value, eval(*expr.children[0]));
  KEYE_TRY(Arguments arguments, eval_arguments(*expr.arguments));
  if (expr.builtin == nullptr) return failure("there is no test \"{}\"", expr.name);
  return call_builtin(*this, *expr.builtin, value, std::move(arguments));
}

Result<Value> Interpreter::call_filter(std::string_view name, const Value& value, Arguments arguments) {
  const Depth depth(*this);
  KEYE_TRY_VOID(check_depth());
  KEYE_TRY_VOID(step());
  const Builtin* filter = find_filter(name);
  if (filter == nullptr) return failure("there is no filter \"{}\" to call by its name", name);
  return call_builtin(*this, *filter, value, std::move(arguments));
}

Result<bool> Interpreter::call_test(std::string_view name, const Value& value, Arguments arguments) {
  KEYE_TRY_VOID(step());
  const Builtin* test = find_test(name);
  if (test == nullptr) return failure("there is no test \"{}\" to call by its name", name);
  KEYE_TRY(const Value result, call_builtin(*this, *test, value, std::move(arguments)));
  return truthy(result);
}

Result<Value> Interpreter::eval_unary(const Expr& expr) {
  KEYE_TRY(const Value value, eval(*expr.children[0]));
  if (expr.kind == ExprKind::logical_not) {
    KEYE_TRY(const bool holds, truthy(value));
    return Value(!holds);
  }
  const bool negative = expr.kind == ExprKind::negative;
  if (value.is(Kind::undefined)) return undefined_error(value);
  if (value.is(Kind::big_integer)) {
    const std::string& digits = value.note();
    if (!negative) return value;
    const std::string flipped = digits.front() == '-' ? digits.substr(1) : "-" + digits;
    return flipped == "-9223372036854775808" ? Value(INT64_MIN) : Value::big_integer(flipped);
  }
  if (!value.is_number()) return failure("a value of type {} has no sign", text::type_name(value));
  if (value.is(Kind::real)) return Value(negative ? -value.real() : value.real());
  if (negative && value.integer() == INT64_MIN) return Value::big_integer("9223372036854775808");
  return Value(negative ? -value.integer() : value.integer());
}

Result<Value> Interpreter::eval_binary(const Expr& expr) {
  KEYE_TRY(const Value left, eval(*expr.children[0]));
  KEYE_TRY(const Value right, eval(*expr.children[1]));
  return binary(expr.kind, left, right);
}

Result<Value> Interpreter::eval_concat(const Expr& expr) {
  Marked text;
  for (const ExprPtr& child : expr.children) {
    KEYE_TRY(const Value value, eval(*child));
    if (value.is_string()) {
      text.append(value.marked());
    } else {
      KEYE_TRY(const Marked part, str(value));
      text.append(part);
    }
    KEYE_TRY_VOID(check_bytes(text.size()));
  }
  return string(std::move(text));
}

Result<Value> Interpreter::eval_compare(const Expr& expr) {
  KEYE_TRY(Value left, eval(*expr.children[0]));
  for (size_t i = 0; i < expr.compares.size(); ++i) {
    KEYE_TRY(Value right, eval(*expr.children[i + 1]));
    KEYE_TRY(const bool holds, compare(expr.compares[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

}  // namespace keye::text
