// Python's operators and built-in functions on values.
#include <algorithm>
#include <cmath>

#include "text/template/format.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

bool holds(CompareOp op, int order) {
  switch (op) {
    case CompareOp::less:
      return order == -1;
    case CompareOp::less_equal:
      return order == -1 || order == 0;
    case CompareOp::greater:
      return order == 1;
    default:
      return order == 1 || order == 0;
  }
}

/// Keys and items of dicts compare as sets.
bool is_set_like(const Value& value) {
  const auto* view = value.as<DictView>();
  return view != nullptr && view->part() != DictView::Part::values;
}

Error overflow() { return failure("the result is an integer beyond 64 bits, which is not supported"); }

std::string_view symbol(ExprKind op) {
  switch (op) {
    case ExprKind::add:
      return "+";
    case ExprKind::subtract:
      return "-";
    case ExprKind::multiply:
      return "*";
    case ExprKind::divide:
      return "/";
    case ExprKind::floor_divide:
      return "//";
    case ExprKind::modulo:
      return "%";
    default:
      return "**";
  }
}

Result<Value> integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return overflow();
  }
  return Value(result);
}

Result<Value> real_power(double base, double exponent) {
  if (base == 0 && exponent < 0) return failure("0.0 cannot be raised to a negative power");
  if (base < 0 && std::isfinite(base) && std::isfinite(exponent) && std::trunc(exponent) != exponent) {
    return failure("a negative number to a fractional power is a complex number, which is not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent))
    return failure("the result is beyond the range of floats");
  return Value(result);
}

Result<Value> integer_arithmetic(ExprKind op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case ExprKind::add:
      return __builtin_add_overflow(a, b, &result) ? Result<Value>(overflow()) : Value(result);
    case ExprKind::subtract:
      return __builtin_sub_overflow(a, b, &result) ? Result<Value>(overflow()) : Value(result);
    case ExprKind::multiply:
      return __builtin_mul_overflow(a, b, &result) ? Result<Value>(overflow()) : Value(result);
    case ExprKind::power:
      if (b >= 0) return integer_power(a, b);
      return real_power(static_cast<double>(a), static_cast<double>(b));
    default:
      break;
  }
  if (b == 0) return failure("division by zero");
  if (op == ExprKind::divide)
    return Value(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  if (b == -1) return op == ExprKind::modulo ? Result<Value>(Value(0)) : integer_arithmetic(ExprKind::subtract, 0, a);
  const bool adjust = a % b != 0 && (a < 0) != (b < 0);
  return op == ExprKind::modulo ? Value(a % b + (adjust ? b : 0)) : Value(a / b - (adjust ? 1 : 0));
}

Result<Value> real_arithmetic(ExprKind op, double a, double b) {
  switch (op) {
    case ExprKind::add:
      return Value(a + b);
    case ExprKind::subtract:
      return Value(a - b);
    case ExprKind::multiply:
      return Value(a * b);
    case ExprKind::power:
      return real_power(a, b);
    default:
      break;
  }
  if (b == 0) return failure("division by zero");
  if (op == ExprKind::divide) return Value(a / b);
  // As CPython: the remainder takes the divisor's sign, and the quotient is made exact from it.
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == ExprKind::modulo) return Value(remainder);
  if (quotient == 0) return Value(std::copysign(0.0, a / b));
  const double floor = std::floor(quotient);
  return Value(quotient - floor > 0.5 ? floor + 1 : floor);
}

}  // namespace

Result<Value> Interpreter::string(Marked text, bool markup) {
  KEYE_TRY_VOID(check_bytes(text.size()));
  KEYE_TRY_VOID(step(static_cast<int64_t>(text.size() / 64)));
  return Value(std::move(text), markup);
}

Result<Value> Interpreter::list(Values items) {
  KEYE_TRY_VOID(check_items(items.size()));
  KEYE_TRY_VOID(step(static_cast<int64_t>(items.size() / 4)));
  Value value = Value::list(std::move(items));
  if (value.depth() > kValueDepthMax) return failure("a list is nested deeper than {} levels", kValueDepthMax);
  return value;
}

Result<Value> Interpreter::tuple(Values items) {
  KEYE_TRY_VOID(check_items(items.size()));
  KEYE_TRY_VOID(step(static_cast<int64_t>(items.size() / 4)));
  Value value = Value::tuple(std::move(items));
  if (value.depth() > kValueDepthMax) return failure("a tuple is nested deeper than {} levels", kValueDepthMax);
  return value;
}

Result<Value> Interpreter::dict(Dict items) {
  KEYE_TRY_VOID(check_items(items.size()));
  KEYE_TRY_VOID(step(static_cast<int64_t>(items.size() / 4)));
  Value value = Value::dict(std::move(items));
  if (value.depth() > kValueDepthMax) return failure("a dict is nested deeper than {} levels", kValueDepthMax);
  return value;
}

Result<Value> Interpreter::iterator(std::shared_ptr<Iterator> iterator, int depth) {
  if (depth > kValueDepthMax) return failure("iterators are nested deeper than {} levels", kValueDepthMax);
  return Value::object(std::move(iterator), depth);
}

Result<Marked> Interpreter::str(const Value& value) const { return to_str(value, limits_.string_bytes_max); }

Result<bool> Interpreter::truthy(const Value& value) {
  if (!value.is(Kind::object) || !has_length(value)) return truthy_plain(value);
  KEYE_TRY(const int64_t size, length(value));
  return size != 0;
}

bool Interpreter::has_length(const Value& value) const {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
      return true;
    case Kind::object:
      return value.as<Range>() != nullptr || value.as<DictView>() != nullptr || value.as<LoopContext>() != nullptr;
    default:
      return false;
  }
}

Result<int64_t> Interpreter::length(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return int64_t{0};
    case Kind::string:
      return value.string().length;
    case Kind::list:
    case Kind::tuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::dict:
      return static_cast<int64_t>(value.dict().size());
    case Kind::object:
      if (auto* range = value.as<Range>()) return range->size();
      if (auto* view = value.as<DictView>()) return static_cast<int64_t>(view->dict().size());
      if (auto* loop = value.as<LoopContext>()) return loop->length(*this);
      [[fallthrough]];
    default:
      return failure("a value of type {} has no length", text::type_name(value));
  }
}

bool Interpreter::is_iterable(const Value& value) const {
  return (has_length(value) || value.as<Iterator>() != nullptr);
}

Result<std::shared_ptr<Iterator>> Interpreter::iterate(const Value& value) {
  if (auto* iterator = value.as<Iterator>()) {
    // The value keeps the iterator alive; sharing it makes both advance together, as in Python.
    return std::shared_ptr<Iterator>(std::make_shared<Value>(value), iterator);
  }
  if (value.as<LoopContext>() != nullptr || !has_length(value)) {
    return failure("a value of type {} cannot be iterated over", text::type_name(value));
  }
  return std::shared_ptr<Iterator>(std::make_shared<PlainIterator>(value));
}

Result<Values> Interpreter::collect(const Value& value) {
  if (value.is_sequence()) {
    KEYE_TRY_VOID(step(static_cast<int64_t>(value.items().size() / 4)));
    return value.items();
  }
  KEYE_TRY(const auto source, iterate(value));
  Values items;
  while (true) {
    KEYE_TRY_VOID(step());
    KEYE_TRY(std::optional<Value> item, source->next(*this));
    if (!item) return items;
    KEYE_TRY_VOID(check_items(items.size() + 1));
    items.push_back(std::move(*item));
  }
}

Result<int64_t> Interpreter::index(const Value& value) const {
  if (value.is_integral()) return value.integer();
  if (value.is(Kind::undefined)) return undefined_error(value);
  return failure("expected an integer, found {}",
                 value.is(Kind::big_integer) ? "one beyond 64 bits" : text::type_name(value));
}

Result<void> Interpreter::require_hashable(const Value& value) const {
  if (is_hashable_object(value)) {
    return make_error(ErrorCode::unsupported, "", "a value of type {} as a key is not supported",
                      text::type_name(value));
  }
  if (!Dict::hashable(value)) return failure("a value of type {} cannot be a key", text::type_name(value));
  return {};
}

Result<Dict> Interpreter::make_dict(const Arguments& arguments) {
  if (arguments.positional.size() > 1) return failure("dict takes at most one argument without a name");
  Dict out;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional.front();
    if (source.is(Kind::undefined)) return undefined_error(source);
    if (source.is(Kind::dict)) {
      out = source.dict();
    } else {
      KEYE_TRY(const Values pairs, collect(source));
      for (const Value& pair : pairs) {
        KEYE_TRY(const Values items, collect(pair));
        if (items.size() != 2) return failure("dict needs pairs, found {} items", items.size());
        KEYE_TRY_VOID(require_hashable(items[0]));
        out.set(items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) out.set(name, value);
  KEYE_TRY_VOID(step(static_cast<int64_t>(out.size() / 4)));
  return out;
}

Result<bool> Interpreter::equals(const Value& a, const Value& b) {
  KEYE_TRY_VOID(step());
  if (a.is_sequence() && a.kind() == b.kind()) {
    if (a.items().size() != b.items().size()) return false;
    if (a.address() == b.address()) return true;
    for (size_t i = 0; i < a.items().size(); ++i) {
      KEYE_TRY(const bool same, equals(a.items()[i], b.items()[i]));
      if (!same) return false;
    }
    return true;
  }
  if (a.is(Kind::dict) && b.is(Kind::dict)) {
    if (a.dict().size() != b.dict().size()) return false;
    if (a.address() == b.address()) return true;
    for (const Dict::Item& item : a.dict().items()) {
      const Value* other = b.dict().find(item.key);
      if (other == nullptr) return false;
      KEYE_TRY(const bool same, equals(item.value, *other));
      if (!same) return false;
    }
    return true;
  }
  if (a.is(Kind::object) && b.is(Kind::object)) {
    if (is_set_like(a) && is_set_like(b)) return is_subset(a, b, false);
    const auto* x = a.as<Range>();
    const auto* y = b.as<Range>();
    return x != nullptr && y != nullptr ? *x == *y : a.address() == b.address();
  }
  return equal_keys(a, b);
}

Result<bool> Interpreter::ordered(CompareOp op, const Value& a, const Value& b) {
  KEYE_TRY_VOID(step());
  if (a.is(Kind::undefined)) return undefined_error(a);
  if (b.is(Kind::undefined)) return undefined_error(b);
  if (a.is_number() && b.is_number()) return holds(op, compare_numbers(a, b));
  if (a.is_string() && b.is_string()) {
    const int order = a.text().compare(b.text());
    return holds(op, order < 0 ? -1 : order > 0 ? 1 : 0);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const size_t shared = std::min(a.items().size(), b.items().size());
    for (size_t i = 0; i < shared; ++i) {
      KEYE_TRY(const bool same, equals(a.items()[i], b.items()[i]));
      if (!same) return ordered(op, a.items()[i], b.items()[i]);
    }
    return holds(op, compare_numbers(Value(a.items().size()), Value(b.items().size())));
  }
  if (a.is(Kind::big_integer) || b.is(Kind::big_integer)) return overflow();
  if (is_set_like(a) && is_set_like(b)) {
    const bool strict = op == CompareOp::less || op == CompareOp::greater;
    const bool up = op == CompareOp::less || op == CompareOp::less_equal;
    KEYE_TRY(const int64_t size_a, length(a));
    KEYE_TRY(const int64_t size_b, length(b));
    if (strict && size_a == size_b) return false;
    return up ? is_subset(a, b, true) : is_subset(b, a, true);
  }
  return failure("values of types {} and {} have no order", text::type_name(a), text::type_name(b));
}

Result<bool> Interpreter::is_subset(const Value& a, const Value& b, bool may_be_smaller) {
  KEYE_TRY(const int64_t size_a, length(a));
  KEYE_TRY(const int64_t size_b, length(b));
  if (may_be_smaller ? size_a > size_b : size_a != size_b) return false;
  KEYE_TRY(const Values items, collect(a));
  for (const Value& item : items) {
    KEYE_TRY(const bool inside, contains(b, item));
    if (!inside) return false;
  }
  return true;
}

Result<bool> Interpreter::contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) return failure("only a string can be in a string, not {}", text::type_name(item));
    KEYE_TRY_VOID(step(static_cast<int64_t>(container.text().size() / 64)));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is(Kind::dict)) {
    if (is_hashable_object(item)) return false;
    KEYE_TRY_VOID(require_hashable(item));
    return container.dict().find(item) != nullptr;
  }
  if (const auto* range = container.as<Range>(); range != nullptr && item.is_integral())
    return range->contains(item.integer());
  if (const auto* view = container.as<DictView>(); view != nullptr && view->part() == DictView::Part::keys) {
    if (is_hashable_object(item)) return false;
    KEYE_TRY_VOID(require_hashable(item));
    return view->dict().find(item) != nullptr;
  }
  KEYE_TRY(const auto source, iterate(container));
  while (true) {
    KEYE_TRY(const std::optional<Value> next, source->next(*this));
    if (!next) return false;
    KEYE_TRY(const bool same, equals(*next, item));
    if (same) return true;
  }
}

Result<bool> Interpreter::compare(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::equal:
      return equals(a, b);
    case CompareOp::not_equal: {
      KEYE_TRY(const bool same, equals(a, b));
      return !same;
    }
    case CompareOp::in:
      return contains(b, a);
    case CompareOp::not_in: {
      KEYE_TRY(const bool inside, contains(b, a));
      return !inside;
    }
    default:
      return ordered(op, a, b);
  }
}

Result<Value> Interpreter::binary(ExprKind op, const Value& a, const Value& b) {
  if (a.is_string() && op == ExprKind::modulo) return format_percent(*this, a, b);
  if (a.is(Kind::undefined)) return undefined_error(a);
  if (b.is(Kind::undefined)) return undefined_error(b);
  if (a.is_integral() && b.is_integral()) return integer_arithmetic(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return real_arithmetic(op, a.real(), b.real());
  if (op == ExprKind::add && a.is_string() && b.is_string()) {
    const bool markup = a.string().markup || b.string().markup;
    Marked text = markup ? escaped(a) : a.marked();
    text.append(markup ? escaped(b) : b.marked());
    return string(std::move(text), markup);
  }
  if (op == ExprKind::add && a.is_sequence() && a.kind() == b.kind()) {
    Values items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return a.is(Kind::list) ? list(std::move(items)) : tuple(std::move(items));
  }
  if (op == ExprKind::multiply && b.is_integral()) {
    if (a.is_string()) return repeat_text(*this, a, b.integer());
    if (a.is_sequence()) return repeat_items(*this, a, b.integer());
  }
  if (op == ExprKind::multiply && a.is_integral() && (b.is_string() || b.is_sequence())) return binary(op, b, a);
  const bool numbers = (a.is_number() || a.is(Kind::big_integer)) && (b.is_number() || b.is(Kind::big_integer));
  if (numbers) return overflow();
  return failure("the operator {} does not work on {} and {}", symbol(op), text::type_name(a), text::type_name(b));
}

Result<void> Interpreter::sort(Values& items, const Values& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  Result<void> failed;
  // A reversed sort keeps the order of equal items too: reverse, sort, reverse.
  if (reverse) std::ranges::reverse(order);
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    if (!failed) return false;
    const auto less = ordered(CompareOp::less, keys[a], keys[b]);
    if (!less) failed = less.error();
    return less && *less;
  });
  KEYE_TRY_VOID(failed);
  if (reverse) std::ranges::reverse(order);
  Values sorted;
  sorted.reserve(items.size());
  for (const size_t i : order) sorted.push_back(std::move(items[i]));
  items = std::move(sorted);
  return {};
}

}  // namespace keye::text
