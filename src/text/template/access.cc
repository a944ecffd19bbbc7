// How templates reach into values: attributes, items and slices, as jinja2's immutable sandbox allows them.
#include <algorithm>

#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("a value of type {} has no attribute \"{}\"", type_name(object), name));
}

/// The attributes of Python's numbers that are values.
Value number_attribute(const Value& number, std::string_view name) {
  if (name == "real") return number.is(Kind::boolean) ? Value(number.integer()) : number;
  if (name == "imag") return number.is(Kind::real) ? Value(0.0) : Value(0);
  if (!number.is(Kind::real) && name == "numerator") return number.is(Kind::boolean) ? Value(number.integer()) : number;
  if (!number.is(Kind::real) && name == "denominator") return Value(1);
  return Value::missing();
}

/// Python's rules for the bounds of a slice.
struct Bounds {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;
  int64_t count = 0;
};
Bounds clamp(int64_t length, std::optional<int64_t> start, std::optional<int64_t> stop, int64_t step) {
  const int64_t lowest = step < 0 ? -1 : 0;
  const int64_t highest = step < 0 ? length - 1 : length;
  const auto inside = [&](std::optional<int64_t> bound, int64_t otherwise) {
    if (!bound) return otherwise;
    return std::clamp(*bound < 0 ? std::max(*bound + length, lowest) : *bound, lowest, highest);
  };
  const int64_t first = inside(start, step < 0 ? highest : lowest);
  const int64_t last = inside(stop, step < 0 ? lowest : highest);
  Bounds bounds{first, last, step, 0};
  if (step > 0 && first < last) bounds.count = (last - first - 1) / step + 1;
  if (step < 0 && last < first) bounds.count = step == INT64_MIN ? 1 : (first - last - 1) / -step + 1;
  return bounds;
}

}  // namespace

/// The sandbox's refusals are undefined values that say so.
Result<Value> Interpreter::real_attribute(const Value& object, std::string_view name) {
  const auto unsafe = [&] {
    return Value::undefined(
        fmt::format("the attribute \"{}\" of {} objects is not safe to use", name, text::type_name(object)));
  };
  if (auto* own = object.as<TemplateObject>()) {
    KEYE_TRY(Value value, own->attribute(*this, name));
    if (!value.is(Kind::missing)) return name.front() == '_' ? unsafe() : value;
  }
  if (object.is_number() || object.is(Kind::big_integer)) {
    if (Value value = number_attribute(object, name); !value.is(Kind::missing)) return value;
  }
  if (object.is_group() && (name == "grouper" || name == "list")) return object.items()[name == "list" ? 1 : 0];
  const MethodLookup found = find_method(object, name);
  if (found.unsafe) return unsafe();
  if (found.unsupported) {
    return make_error(ErrorCode::unsupported, "", "the method \"{}\" of {} is not supported", name,
                      text::type_name(object));
  }
  if (found.method == nullptr) return Value::missing();
  return Value::object(std::make_shared<BoundMethod>(object, *found.method), object.depth() + 1);
}

Result<Value> Interpreter::attribute(const Value& object, std::string_view name) {
  // Python's own attributes ("__class__") are there, and unsafe, on everything.
  const bool internal = name.size() > 4 && name.starts_with("__") && name.ends_with("__");
  if (internal) return Value::undefined(fmt::format("the attribute \"{}\" is not safe to use", name));
  if (object.is(Kind::undefined)) return undefined_error(object);
  KEYE_TRY(Value value, real_attribute(object, name));
  if (!value.is(Kind::missing)) return value;
  if (object.is(Kind::dict)) {
    if (const Value* found = object.dict().find(name)) return *found;
  }
  return no_attribute(object, name);
}

Result<Value> Interpreter::item(const Value& object, const Value& key) {
  if (object.is(Kind::undefined)) return undefined_error(object);
  if (object.is(Kind::dict) && Dict::hashable(key)) {
    if (const Value* found = object.dict().find(key)) return *found;
  } else if (key.is_integral() && has_length(object)) {
    KEYE_TRY(const int64_t size, length(object));
    const int64_t index = key.integer() < 0 ? key.integer() + size : key.integer();
    if (index >= 0 && index < size) {
      if (object.is_sequence()) return object.items()[static_cast<size_t>(index)];
      if (object.is_string()) return Value(pick_characters(object.string(), index, 1, 1), object.string().markup);
      if (const auto* range = object.as<Range>()) return Value(range->at(index));
    }
  }
  if (key.is_string() && !key.text().empty()) {
    KEYE_TRY(Value value, real_attribute(object, key.text()));
    if (!value.is(Kind::missing)) return value;
  }
  KEYE_TRY(const Marked shown, to_repr(key, 1000));
  return Value::undefined(fmt::format("a value of type {} has no item {}", text::type_name(object), shown.text));
}

Result<Value> Interpreter::slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is(Kind::undefined)) return undefined_error(object);
  const auto* range = object.as<Range>();
  if (!object.is_string() && !object.is_sequence() && range == nullptr) {
    return failure("a value of type {} has no slices", text::type_name(object));
  }
  const auto bound = [&](const Value& value) -> Result<std::optional<int64_t>> {
    if (value.is(Kind::none)) return std::optional<int64_t>();
    if (value.is(Kind::big_integer)) return std::optional(value.note().front() == '-' ? INT64_MIN : INT64_MAX);
    KEYE_TRY(const int64_t number, index(value));
    return std::optional(number);
  };
  KEYE_TRY(const auto stride, bound(step));
  KEYE_TRY(const auto first, bound(start));
  KEYE_TRY(const auto last, bound(stop));
  if (stride == 0) return failure("the step of a slice cannot be zero");
  KEYE_TRY(const int64_t size, length(object));
  const Bounds bounds = clamp(size, first, last, stride.value_or(1));
  if (object.is_string()) {
    return string(pick_characters(object.string(), bounds.start, bounds.step, bounds.count), object.string().markup);
  }
  if (range != nullptr) return range->slice(bounds.start, bounds.stop, bounds.step);
  Values items;
  items.reserve(static_cast<size_t>(bounds.count));
  for (int64_t i = 0, at = bounds.start; i < bounds.count; ++i) {
    items.push_back(object.items()[static_cast<size_t>(at)]);
    if (i + 1 < bounds.count) at += bounds.step;
  }
  return object.is(Kind::list) ? list(std::move(items)) : tuple(std::move(items));
}

}  // namespace keye::text
