// The filters of jinja2 on single values: numbers, defaults, attributes, JSON.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/builtin_tables.h"
#include "text/template/characters.h"
#include "text/template/format.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

/// A number as Python reads it from a string: without the space around it, its digits in ASCII.
std::string plain_number(const Marked& text) {
  const Marked stripped = strip(text, nullptr, true, true);
  std::string out;
  for (size_t at = 0; at < stripped.size();) {
    const unicode::Decoded here = unicode::decode(stripped.text, at);
    const int digit = unicode::decimal_value(here.code);
    out.append(digit >= 0 ? std::string(1, static_cast<char>('0' + digit)) : stripped.text.substr(at, here.bytes));
    at += here.bytes;
  }
  return out;
}

/// Removes underscores between digits; false if one stands anywhere else.
bool remove_underscores(std::string& text, bool after_prefix = false) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
      continue;
    }
    const auto alnum = [&](size_t at) {
      return at < text.size() && std::isalnum(static_cast<unsigned char>(text[at]));
    };
    if ((i == 0 ? !after_prefix : !alnum(i - 1)) || !alnum(i + 1)) return false;
  }
  text = out;
  return true;
}

/// int(text, base), or nothing.
std::optional<Value> parse_integer(const Marked& text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  std::string digits = plain_number(text);
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  bool prefixed = false;
  if (digits.size() > 1 && digits[0] == '0') {
    const char letter = static_cast<char>(digits[1] | 0x20);
    const int64_t meant = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (meant != 0 && (base == 0 || base == meant)) {
      base = meant;
      prefixed = true;
      digits.erase(0, 2);
    }
  }
  if (!remove_underscores(digits, prefixed) || digits.empty()) return std::nullopt;
  if (base == 0) {
    base = 10;
    if (digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of('0') != std::string::npos)
      return std::nullopt;
  }
  if (!std::ranges::all_of(digits, [](char c) { return std::isalnum(static_cast<unsigned char>(c)); }))
    return std::nullopt;
  const std::string signed_digits = (negative ? "-" : "") + digits;
  int64_t value = 0;
  const auto result =
      std::from_chars(signed_digits.data(), signed_digits.data() + signed_digits.size(), value, static_cast<int>(base));
  if (result.ptr != signed_digits.data() + signed_digits.size()) return std::nullopt;
  if (result.ec == std::errc()) return Value(value);
  if (base != 10 || digits.size() > 4300) return std::nullopt;
  const size_t significant = digits.find_first_not_of('0');
  return Value::big_integer((negative ? "-" : "") + digits.substr(significant));
}

/// float(text), or nothing.
std::optional<double> parse_real(const Marked& text) {
  std::string number = plain_number(text);
  if (!remove_underscores(number)) return std::nullopt;
  std::string_view rest = number;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  std::string word(rest);
  std::ranges::transform(word, word.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const double sign = negative ? -1.0 : 1.0;
  if (word == "inf" || word == "infinity") return sign * INFINITY;
  if (word == "nan") return std::copysign(NAN, sign);
  if (word.find_first_not_of("0123456789.e+-") != std::string::npos) return std::nullopt;
  double value = 0;
  // from_chars takes no digits after a bare point's left side only if there are none at all, as Python does.
  const auto result = std::from_chars(word.data(), word.data() + word.size(), value);
  if (word.empty() || word[0] == '-' || word[0] == '+' || result.ptr != word.data() + word.size()) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range)
    value = std::strtod(word.c_str(), nullptr);
  else if (result.ec != std::errc())
    return std::nullopt;
  return sign * value;
}

/// int(value) of a float.
Result<Value> truncate_real(double value) {
  if (std::abs(value) < 9223372036854775808.0) return Value(static_cast<int64_t>(value));
  if (value == -9223372036854775808.0) return Value(INT64_MIN);
  return failure("the result is an integer beyond 64 bits, which is not supported");
}

Result<Value> to_int(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.positional[0].is(Kind::missing) ? Value(0) : arguments.positional[0];
  switch (value.kind()) {
    case Kind::undefined:
      return undefined_error(value);
    case Kind::boolean:
    case Kind::integer:
      return Value(value.integer());
    case Kind::big_integer:
      return value;
    case Kind::real:
      if (std::isinf(value.real())) return failure("infinity cannot become an integer");
      return std::isnan(value.real()) ? otherwise : truncate_real(value.real());
    case Kind::string: {
      KEYE_TRY(const int64_t base,
               arguments.positional[1].is(Kind::missing) ? int64_t{10} : interpreter.index(arguments.positional[1]));
      if (auto integer = parse_integer(value.marked(), base)) return std::move(*integer);
      const std::optional<double> real = parse_real(value.marked());
      return real && std::isfinite(*real) ? truncate_real(*real) : otherwise;
    }
    default:
      return otherwise;
  }
}

Result<Value> to_float(Interpreter&, const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.positional[0].is(Kind::missing) ? Value(0.0) : arguments.positional[0];
  if (value.is(Kind::undefined)) return undefined_error(value);
  if (value.is_number()) return Value(value.real());
  const bool text = value.is_string();
  if (!text && !value.is(Kind::big_integer)) return otherwise;
  const std::optional<double> real = parse_real(text ? value.marked() : Marked(value.note()));
  if (real && !text && std::isinf(*real)) return failure("this integer is beyond the range of floats");
  return real ? Value(*real) : otherwise;
}

/// round(value, precision) of a float: the nearest decimal, ties to even, exactly.
double round_real(double value, int64_t precision) {
  if (!std::isfinite(value) || value == 0 || precision > 330) return value;
  if (precision >= 0) return std::strtod(format_real(value, 'f', static_cast<int>(precision), false).c_str(), nullptr);
  const std::string whole = format_real(std::abs(value), 'e', 17, false);
  const int64_t digits = std::atoi(whole.substr(whole.find('e') + 1).c_str()) + 1;
  if (-precision > digits) return std::copysign(0.0, value);
  if (-precision == digits) {
    // Rounds to nothing or to one unit: decided by half a unit, which itself goes to nothing.
    const double unit = std::strtod(fmt::format("1e{}", digits).c_str(), nullptr);
    return std::copysign(std::abs(value) > unit / 2 ? unit : 0.0, value);
  }
  return std::strtod(format_real(value, 'e', static_cast<int>(digits + precision - 1), false).c_str(), nullptr);
}

Result<Value> round_integer(int64_t value, int64_t precision) {
  if (precision >= 0) return Value(value);
  if (precision < -18) return Value(0);
  int64_t unit = 1;
  for (int64_t i = 0; i < -precision; ++i) unit *= 10;
  int64_t rest = value % unit;
  if (rest < 0) rest += unit;
  int64_t floor = 0;
  if (__builtin_sub_overflow(value, rest, &floor))
    return failure("the result is an integer beyond 64 bits, which is not supported");
  const bool up = rest > unit / 2 || (rest == unit / 2 && (floor / unit) % 2 != 0);
  if (up && __builtin_add_overflow(floor, unit, &floor))
    return failure("the result is an integer beyond 64 bits, which is not supported");
  return Value(floor);
}

Result<Value> round(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value& method = arguments.positional[1];
  const std::string how = method.is_string() ? method.text() : "";
  if (!method.is(Kind::missing) && how != "common" && how != "ceil" && how != "floor")
    return failure("round rounds by \"common\", \"ceil\" or \"floor\"");
  if (value.is(Kind::undefined)) return undefined_error(value);
  if (!value.is_number()) return failure("a value of type {} cannot be rounded", type_name(value));
  const Value& given = arguments.positional[0];
  if (how != "ceil" && how != "floor") {
    if (given.is(Kind::none)) {
      if (value.is_integral()) return Value(value.integer());
      if (!std::isfinite(value.real())) return failure("this number cannot become an integer");
      return truncate_real(round_real(value.real(), 0));
    }
    KEYE_TRY(const int64_t precision, given.is(Kind::missing) ? int64_t{0} : interpreter.index(given));
    if (value.is_integral()) return round_integer(value.integer(), precision);
    const double rounded = round_real(value.real(), precision);
    if (std::isinf(rounded) && std::isfinite(value.real()))
      return failure("the rounded value is beyond the range of floats");
    return Value(rounded);
  }
  // func(value * 10 ** precision) / 10 ** precision, with Python's mixture of integers and floats.
  KEYE_TRY(const Value factor,
           interpreter.binary(ExprKind::power, Value(10), given.is(Kind::missing) ? Value(0) : given));
  KEYE_TRY(const Value scaled, interpreter.binary(ExprKind::multiply, value, factor));
  if (scaled.is_integral()) return interpreter.binary(ExprKind::divide, scaled, factor);
  if (!std::isfinite(scaled.real())) return failure("this number cannot become an integer");
  const double whole = how == "ceil" ? std::ceil(scaled.real()) : std::floor(scaled.real());
  return interpreter.binary(ExprKind::divide, Value(whole + 0.0), factor);
}

Result<Value> absolute(Interpreter& interpreter, const Value& value, Arguments&) {
  if (value.is(Kind::real)) return Value(std::abs(value.real()));
  if (value.is_integral())
    return value.integer() < 0 ? interpreter.binary(ExprKind::subtract, Value(0), value) : Value(value.integer());
  if (value.is(Kind::big_integer))
    return value.note().front() == '-' ? Value::big_integer(value.note().substr(1)) : value;
  return failure("a value of type {} has no absolute value", type_name(value));
}

Result<Value> attribute(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const Marked* name, text_argument(arguments.positional[0], "the name of an attribute"));
  if (value.is(Kind::undefined)) return undefined_error(value);
  Value found = Value::missing();
  if (!name->empty()) {
    KEYE_TRY(found, interpreter.real_attribute(value, name->text));
  }
  return found.is(Kind::missing)
             ? Value::undefined(fmt::format("a value of type {} has no attribute \"{}\"", type_name(value), name->text))
             : found;
}

Result<Value> default_value(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.positional[0].is(Kind::missing) ? Value("") : arguments.positional[0];
  if (value.is(Kind::undefined)) return otherwise;
  KEYE_TRY(const bool also_false, flag(interpreter, arguments.positional[1]));
  if (!also_false) return value;
  KEYE_TRY(const bool any, interpreter.truthy(value));
  return any ? value : otherwise;
}

Result<Value> json(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  JsonStyle style;
  KEYE_TRY(style.ensure_ascii, flag(interpreter, arguments.positional[0]));
  const Value& indent = arguments.positional[1];
  if (indent.is_string()) {
    style.indent = indent.marked();
  } else if (!indent.is(Kind::missing) && !indent.is(Kind::none)) {
    KEYE_TRY(const int64_t spaces, interpreter.index(indent));
    KEYE_TRY_VOID(interpreter.check_bytes(static_cast<size_t>(std::max<int64_t>(spaces, 0))));
    style.indent = Marked(std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' '));
  }
  if (const Value& separators = arguments.positional[2]; !separators.is(Kind::missing) && !separators.is(Kind::none)) {
    KEYE_TRY(const Values pair, interpreter.collect(separators));
    if (pair.size() != 2) return failure("tojson needs two separators");
    KEYE_TRY(const Marked* item, text_argument(pair[0], "a separator"));
    KEYE_TRY(const Marked* key, text_argument(pair[1], "a separator"));
    style.item_separator = *item;
    style.key_separator = *key;
  }
  KEYE_TRY(style.sort_keys, flag(interpreter, arguments.positional[3]));
  KEYE_TRY(Marked text, to_json(value, style, interpreter.limits().string_bytes_max));
  return interpreter.string(std::move(text));
}

Result<Value> file_size(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool binary, flag(interpreter, arguments.positional[0]));
  Arguments strict{{Value::none()}, {}};
  KEYE_TRY(const Value real, to_float(interpreter, value, strict));
  if (real.is(Kind::none)) return failure("filesizeformat needs a number");
  const double bytes = real.real();
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return Value("1 Byte");
  if (bytes < base) {
    KEYE_TRY(const Value whole, std::isfinite(bytes) ? truncate_real(bytes)
                                                     : Result<Value>(failure("this number cannot become an integer")));
    return Value(fmt::format("{} Bytes", whole.integer()));
  }
  static constexpr std::string_view kLetters = "kMGTPEZY";
  double unit = base;
  for (size_t i = 0;; ++i) {
    unit *= base;
    if (bytes < unit || i + 1 == kLetters.size()) {
      const std::string_view letter = binary && i == 0 ? "K" : kLetters.substr(i, 1);
      return Value(fmt::format("{} {}{}B", format_real(base * bytes / unit, 'f', 1, false), letter, binary ? "i" : ""));
    }
  }
}

constexpr Builtin kFilters[] = {
    {"abs", "", false, absolute},
    {"attr", "name", true, attribute},
    {"d", "default_value?,boolean?", true, default_value},
    {"default", "default_value?,boolean?", true, default_value},
    {"filesizeformat", "binary?", true, file_size},
    {"float", "default?", true, to_float},
    {"int", "default?,base?", true, to_int},
    {"round", "precision?,method?", true, round},
    {"tojson", "ensure_ascii?,indent?,separators?,sort_keys?", true, json},
};

}  // namespace

std::span<const Builtin> value_filters() { return kFilters; }

}  // namespace keye::text
