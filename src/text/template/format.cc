#include "text/template/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "text/template/characters.h"
#include "text/template/text_ops.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

constexpr int64_t kPrecisionMax = 5000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// How a number is to be laid out.
struct Layout {
  Marked fill = " ";
  char align = '\0';  // one of < > ^ = or none
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  int precision = -1;
  char type = '\0';
};

/// Reads digits; a number too large to be a size is an error.
Result<int64_t> read_number(std::string_view text, size_t& at) {
  int64_t value = 0;
  while (at < text.size() && is_digit(text[at])) {
    value = value * 10 + (text[at++] - '0');
    if (value > INT32_MAX) return failure("a width or precision in a format is too large");
  }
  return value;
}

std::string group_digits(std::string_view digits, char separator, size_t group) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % group == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

/// Sign, prefix ("0x") and body, padded. Zeros go between the prefix and the body, grouped like it.
Result<Marked> lay_out_number(const Interpreter& interpreter, const Layout& layout, std::string_view sign,
                              std::string_view prefix, std::string body) {
  size_t integer = 0;
  while (integer < body.size() && std::isalnum(static_cast<unsigned char>(body[integer])) && body[integer] != 'e')
    ++integer;
  const bool finite = !body.empty() && body.find_first_of("iInN") == std::string::npos;
  const size_t group =
      layout.grouping == '_' && std::strchr("boxX", layout.type) != nullptr && layout.type != '\0' ? 4 : 3;
  std::string whole = body.substr(0, integer);
  const std::string rest = body.substr(integer);
  const size_t fixed = sign.size() + prefix.size() + rest.size();
  const bool zeros = layout.align == '=' && layout.fill.text == "0";
  if (static_cast<uint64_t>(layout.width) > interpreter.limits().string_bytes_max)
    KEYE_TRY_VOID(interpreter.check_bytes(SIZE_MAX));
  if (layout.grouping != '\0' && finite) {
    // Zeros are digits too: as many as fill the width once separators are in.
    while (zeros &&
           static_cast<int64_t>(fixed + group_digits("0" + whole, layout.grouping, group).size()) <= layout.width)
      whole = "0" + whole;
    std::string grouped = group_digits(whole, layout.grouping, group);
    if (zeros && static_cast<int64_t>(fixed + grouped.size()) < layout.width)
      grouped = group_digits("0" + whole, layout.grouping, group);
    whole = grouped;
  }
  const std::string number = whole + rest;
  Marked head{std::string(sign) + std::string(prefix)};
  const auto length = static_cast<int64_t>(head.size() + number.size());
  if (layout.align == '=') {
    KEYE_TRY(const Marked padded, pad(interpreter, Marked(number), length, layout.width, layout.fill, Align::right));
    head.append(padded);
    return head;
  }
  head.append(number);
  const Align align = layout.align == '<' ? Align::left : layout.align == '^' ? Align::center : Align::right;
  return pad(interpreter, head, length, layout.width, layout.fill, align);
}

std::string_view sign_of(bool negative, char sign) {
  return negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : "";
}

std::string digits_of(uint64_t value, int base, bool upper) {
  const std::string_view letters = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out.push_back(letters[value % static_cast<unsigned>(base)]);
    value /= static_cast<unsigned>(base);
  } while (value > 0);
  std::ranges::reverse(out);
  return out;
}

uint64_t magnitude(int64_t value) {
  return value < 0 ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value);
}

int base_of(char type) { return type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10; }
std::string_view prefix_of(char type) {
  return type == 'x' ? "0x" : type == 'X' ? "0X" : type == 'o' ? "0o" : type == 'b' ? "0b" : "";
}

/// Whether int(value) fits; a number is needed.
bool to_integer(const Value& value, int64_t& integer) {
  if (value.is(Kind::real) && !(std::abs(value.real()) < 9223372036854775808.0)) return false;
  integer = value.is(Kind::real) ? static_cast<int64_t>(value.real()) : value.integer();
  return true;
}

// ---- "{}".format: the specification after the colon.

Result<Layout> parse_spec(const Marked& spec, bool numeric) {
  Layout layout;
  const std::string_view text = spec.text;
  const auto is_align = [&](size_t at) {
    return at < text.size() && std::string_view("<>=^").find(text[at]) != std::string_view::npos;
  };
  size_t at = 0;
  bool fill_given = false;
  const size_t first = text.empty() ? 0 : unicode::decode(text, 0).bytes;
  if (first > 0 && is_align(first)) {
    layout.fill = spec.slice(0, first);
    layout.align = text[first];
    at = first + 1;
    fill_given = true;
  } else if (is_align(0)) {
    layout.align = text[at++];
  }
  const auto at_char = [&](std::string_view set) {
    return at < text.size() && set.find(text[at]) != std::string_view::npos;
  };
  const bool sign_given = at_char("+- ");
  if (sign_given) layout.sign = text[at++];
  if (at_char("#")) {
    layout.alternate = true;
    ++at;
  }
  if (!fill_given && at_char("0")) {
    layout.fill = "0";
    if (layout.align == '\0' && numeric) layout.align = '=';
    ++at;
  }
  KEYE_TRY(layout.width, read_number(text, at));
  if (at_char(",_")) layout.grouping = text[at++];
  if (at_char(",_")) return failure("a format cannot group digits in two ways");
  if (at_char(".")) {
    ++at;
    if (!at_char("0123456789")) return failure("a format lacks its precision");
    KEYE_TRY(const int64_t precision, read_number(text, at));
    layout.precision = static_cast<int>(precision);
  }
  if (at < text.size()) layout.type = text[at++];
  if (at < text.size()) return failure("invalid format \"{}\"", text);
  if (!numeric && (sign_given || layout.align == '=' || layout.grouping != '\0' || layout.alternate)) {
    return failure("the format \"{}\" does not suit a string", text);
  }
  return layout;
}

Result<Marked> format_text(Interpreter& interpreter, const Marked& text, const Layout& layout) {
  if (layout.type != '\0' && layout.type != 's')
    return failure("the format type '{}' does not suit a string", layout.type);
  const Value whole(text);
  const int64_t length =
      layout.precision < 0 ? whole.string().length : std::min<int64_t>(layout.precision, whole.string().length);
  const Align align = layout.align == '>' ? Align::right : layout.align == '^' ? Align::center : Align::left;
  return pad(interpreter, pick_characters(whole.string(), 0, 1, length), length, layout.width, layout.fill, align);
}

/// Type none with a precision: like g, but with a digit after the point, and an exponent from one digit earlier on.
std::string format_general(double value, int precision) {
  if (!std::isfinite(value)) return float_repr(value);
  precision = std::max(precision, 1);
  const std::string scientific = format_real(value, 'e', precision - 1, false);
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  if (exponent >= -4 && exponent < precision - 1) {
    const std::string fixed = format_real(value, 'g', precision, false);
    return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
  }
  std::string mantissa = scientific.substr(0, e);
  if (mantissa.find('.') != std::string::npos) {
    mantissa.erase(mantissa.find_last_not_of('0') + 1);
    if (mantissa.back() == '.') mantissa.pop_back();
  }
  return mantissa + scientific.substr(e);
}

Result<Marked> format_real_spec(Interpreter& interpreter, double value, Layout layout) {
  if (layout.precision > kPrecisionMax) return failure("a precision of {} digits is too large", layout.precision);
  std::string body;
  switch (layout.type) {
    case '\0':
      body = layout.precision < 0 ? float_repr(value) : format_general(value, layout.precision);
      break;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      body = format_real(value, layout.type, layout.precision < 0 ? 6 : layout.precision, layout.alternate);
      break;
    case 'n':
      body = format_real(value, 'g', layout.precision < 0 ? 6 : layout.precision, layout.alternate);
      break;
    case '%':
      body = format_real(value * 100, 'f', layout.precision < 0 ? 6 : layout.precision, layout.alternate) + "%";
      break;
    default:
      return failure("the format type '{}' does not suit a float", layout.type);
  }
  const bool negative = body.front() == '-';
  return lay_out_number(interpreter, layout, sign_of(negative, layout.sign), "", body.substr(negative ? 1 : 0));
}

Result<Marked> format_integer_spec(Interpreter& interpreter, int64_t value, const Layout& layout) {
  switch (layout.type) {
    case '\0':
    case 'd':
    case 'b':
    case 'o':
    case 'x':
    case 'X':
    case 'n':
      break;
    case 'c': {
      if (layout.sign != '-' || layout.alternate || layout.precision >= 0)
        return failure("this format does not suit a character");
      if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
        return failure("{} is not a character", value);
      std::string character;
      unicode::encode(static_cast<char32_t>(value), character);
      return lay_out_number(interpreter, layout, "", "", std::move(character));
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
    case '%':
      return format_real_spec(interpreter, static_cast<double>(value), layout);
    default:
      return failure("the format type '{}' does not suit an integer", layout.type);
  }
  if (layout.precision >= 0) return failure("a precision does not suit an integer");
  if (layout.grouping == ',' && base_of(layout.type) != 10) return failure("',' groups decimal digits only");
  const std::string_view prefix = layout.alternate ? prefix_of(layout.type) : "";
  return lay_out_number(interpreter, layout, sign_of(value < 0, layout.sign), prefix,
                        digits_of(magnitude(value), base_of(layout.type), layout.type == 'X'));
}

// ---- "{}".format: fields.

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& interpreter, const Arguments& arguments, bool escape)
      : interpreter_(interpreter), arguments_(arguments), escape_(escape) {}

  Result<Marked> format(const Marked& text, int recursion) {
    if (recursion < 0) return failure("formats are nested too deeply");
    const std::string_view view = text.text;
    Marked out;
    for (size_t at = 0; at < view.size();) {
      const size_t brace = view.find_first_of("{}", at);
      if (brace == std::string_view::npos) {
        out.append(text, at, view.size() - at);
        break;
      }
      out.append(text, at, brace - at);
      at = brace + 1;
      if (at < view.size() && view[at] == view[brace]) {
        out.append(text, brace, 1);
        ++at;
      } else if (view[brace] == '}' || at == view.size()) {
        return failure("a single '{}' stands in a format", view[brace]);
      } else {
        KEYE_TRY(const Marked field, format_field(text, at, recursion));
        out.append(field);
      }
      KEYE_TRY_VOID(interpreter_.check_bytes(out.size()));
    }
    return out;
  }

 private:
  /// The field that starts at `at`, after its brace; moves `at` behind it.
  Result<Marked> format_field(const Marked& text, size_t& at, int recursion) {
    const std::string_view view = text.text;
    const size_t begin = at;
    while (at < view.size() && view[at] != '}' && view[at] != ':' && view[at] != '!') {
      if (view[at] == '{') return failure("unexpected '{{' in the name of a field");
      if (view[at] == '[') {
        while (at < view.size() && view[at] != ']') ++at;
        if (at == view.size()) break;
      }
      ++at;
    }
    const std::string_view name = view.substr(begin, at - begin);
    if (at >= view.size()) return failure("a field in a format lacks its '}}'");
    char conversion = '\0';
    if (view[at] == '!') {
      if (at + 2 >= view.size()) return failure("a field in a format lacks its conversion");
      conversion = view[at + 1];
      at += 2;
      if (view[at] != '}' && view[at] != ':') return failure("expected ':' after the conversion of a field");
    }
    Marked spec;
    if (view[at] == ':') {
      const size_t start = ++at;
      int open = 1;
      for (; at < view.size(); ++at) {
        if (view[at] == '{') ++open;
        if (view[at] == '}' && --open == 0) break;
      }
      if (at >= view.size()) return failure("a field in a format lacks its '}}'");
      spec = text.slice(start, at - start);
    }
    ++at;
    KEYE_TRY(Value value, find(name));
    if (conversion != '\0') {
      KEYE_TRY(value, convert(value, conversion));
    }
    KEYE_TRY(spec, format(spec, recursion - 1));
    if (escape_ && value.is_string() && value.string().markup && spec.empty()) return value.marked();
    KEYE_TRY(const Marked formatted, format_value(interpreter_, value, spec));
    return escape_ ? escape_html(formatted) : formatted;
  }

  Result<Value> convert(const Value& value, char conversion) {
    Marked out;
    ReprWriter writer(out, interpreter_.limits().string_bytes_max);
    if (conversion == 's') {
      KEYE_TRY(out, interpreter_.str(value));
    } else if (conversion == 'r') {
      KEYE_TRY_VOID(writer.write(value));
    } else if (conversion == 'a') {
      KEYE_TRY_VOID(write_ascii(value, out, interpreter_));
    } else {
      return failure("unknown conversion '{}' in a format", conversion);
    }
    return Value(std::move(out));
  }

  Result<Value> find(std::string_view name) {
    const auto is_number = [](std::string_view part) {
      return !part.empty() && part.size() < 10 && std::ranges::all_of(part, is_digit);
    };
    size_t at = std::min(name.find_first_of(".["), name.size());
    std::string first(name.substr(0, at));
    if (name.empty()) {
      if (numbered_) return failure("a format numbers only some of its fields");
      first = std::to_string(next_++);
    } else if (is_number(name)) {
      if (next_ > 0) return failure("a format numbers only some of its fields");
      numbered_ = true;
    }
    KEYE_TRY(Value value, argument(first, is_number(first)));
    while (at < name.size()) {
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        if (end == at + 1) return failure("an attribute in a format has no name");
        KEYE_TRY(value, interpreter_.attribute(value, name.substr(at + 1, end - at - 1)));
        at = end;
      } else if (name[at] == '[') {
        const size_t end = name.find(']', at);
        if (end == std::string_view::npos || end == at + 1) return failure("an item in a format has no name");
        const std::string key(name.substr(at + 1, end - at - 1));
        KEYE_TRY(value, interpreter_.item(value, is_number(key) ? Value(std::stoi(key)) : Value(key)));
        at = end + 1;
      } else {
        return failure("only '.' or '[' may follow ']' in a format");
      }
    }
    return value;
  }

  Result<Value> argument(const std::string& name, bool number) const {
    if (number) {
      const auto index = static_cast<size_t>(std::stoi(name));
      if (index >= arguments_.positional.size()) return failure("a format has no argument number {}", index);
      return arguments_.positional[index];
    }
    const auto found = std::ranges::find_if(arguments_.named, [&](const auto& named) { return named.first == name; });
    if (found == arguments_.named.end()) return failure("a format has no argument \"{}\"", name);
    return found->second;
  }

 public:
  static Result<void> write_ascii(const Value& value, Marked& out, const Interpreter& interpreter) {
    KEYE_TRY(const Marked repr, to_repr(value, interpreter.limits().string_bytes_max));
    for (size_t at = 0; at < repr.size();) {
      const unicode::Decoded here = unicode::decode(repr.text, at);
      if (here.code < 0x80) {
        out.append(repr, at, 1);
      } else {
        const auto code = static_cast<uint32_t>(here.code);
        const std::string escape = code <= 0xFF     ? fmt::format("\\x{:02x}", code)
                                   : code <= 0xFFFF ? fmt::format("\\u{:04x}", code)
                                                    : fmt::format("\\U{:08x}", code);
        out.append(escape, repr.origin_at(at));
      }
      at += here.bytes;
    }
    return {};
  }

 private:
  Interpreter& interpreter_;
  const Arguments& arguments_;
  bool escape_;
  int next_ = 0;
  bool numbered_ = false;
};

// ---- "%s" % values.

class PercentFormatter {
 public:
  PercentFormatter(Interpreter& interpreter, const Value& values, bool escape)
      : interpreter_(interpreter), values_(values), escape_(escape) {
    single_ = !values.is(Kind::tuple);
    // Python takes whatever has items for a mapping, and lets a mapping go unused.
    mapping_ = values.is(Kind::dict) || values.is(Kind::list) || values.is(Kind::undefined) ||
               (values.is(Kind::object) && type_name(values) == "range");
  }

  Result<Marked> format(const Marked& text) {
    Marked out;
    for (size_t at = 0; at < text.size();) {
      const size_t percent = std::min(text.text.find('%', at), text.size());
      out.append(text, at, percent - at);
      at = percent;
      if (at == text.size()) break;
      KEYE_TRY(const Marked field, format_field(text.text, at));
      out.append(field);
      KEYE_TRY_VOID(interpreter_.check_bytes(out.size()));
    }
    const bool unused = single_ ? !taken_ && !mapping_ : next_ < values_.items().size();
    if (unused) return failure("not all arguments of a format were used");
    return out;
  }

 private:
  Result<Value> take() {
    if (named_) {
      Value value = std::move(*named_);
      named_.reset();
      return value;
    }
    if (single_ && !taken_) {
      taken_ = true;
      return values_;
    }
    if (single_ || next_ >= values_.items().size()) return failure("a format has fewer arguments than fields");
    return values_.items()[next_++];
  }

  Result<int64_t> take_size(std::string_view text, size_t& at) {
    if (at < text.size() && text[at] == '*') {
      ++at;
      KEYE_TRY(const Value value, take());
      KEYE_TRY(const int64_t size, interpreter_.index(value));
      if (size > INT32_MAX || size < -INT32_MAX) return failure("a width or precision in a format is too large");
      return size;
    }
    return read_number(text, at);
  }

  Result<void> take_name(std::string_view text, size_t& at) {
    const size_t begin = ++at;
    int open = 1;
    for (; at < text.size(); ++at) {
      if (text[at] == '(') ++open;
      if (text[at] == ')' && --open == 0) break;
    }
    if (at >= text.size()) return failure("a name in a format lacks its ')'");
    const Value key(text.substr(begin, at - begin));
    ++at;
    if (!values_.is(Kind::dict)) return failure("a format with names needs a dict");
    const Value* value = values_.dict().find(key);
    if (value == nullptr) return failure("a format has no argument \"{}\"", key.text());
    named_ = *value;
    taken_ = true;
    return {};
  }

  /// The field whose '%' is at `at`; moves `at` behind it.
  Result<Marked> format_field(std::string_view text, size_t& at) {
    ++at;
    Layout layout;
    if (at < text.size() && text[at] == '(') KEYE_TRY_VOID(take_name(text, at));
    bool zero = false;
    for (; at < text.size() && std::string_view("-+ #0").find(text[at]) != std::string_view::npos; ++at) {
      if (text[at] == '-') layout.align = '<';
      if (text[at] == '+') layout.sign = '+';
      if (text[at] == ' ' && layout.sign != '+') layout.sign = ' ';
      if (text[at] == '#') layout.alternate = true;
      if (text[at] == '0') zero = true;
    }
    KEYE_TRY(layout.width, take_size(text, at));
    if (layout.width < 0) {
      layout.align = '<';
      layout.width = -layout.width;
    }
    if (at < text.size() && text[at] == '.') {
      ++at;
      KEYE_TRY(const int64_t precision, take_size(text, at));
      layout.precision = static_cast<int>(std::max<int64_t>(precision, 0));
    }
    if (at < text.size() && std::string_view("hlL").find(text[at]) != std::string_view::npos) ++at;
    if (at >= text.size()) return failure("a format ends inside a field");
    layout.type = text[at++];
    if (layout.type == '%') return Marked("%");
    KEYE_TRY(const Value value, take());
    return format_argument(value, layout, zero);
  }

  Result<Marked> format_argument(const Value& value, Layout layout, bool zero) {
    const auto zeros = [&] {
      if (!zero || layout.align == '<') return;
      layout.fill = "0";
      layout.align = '=';
    };
    if (layout.align == '\0') layout.align = '>';
    switch (layout.type) {
      case 's':
      case 'r':
      case 'a': {
        KEYE_TRY(const Marked text, text_of(value, layout.type));
        layout.type = 's';
        return format_text(interpreter_, text, layout);
      }
      case 'c': {
        layout.type = 's';
        layout.precision = -1;
        if (value.is_string() && value.string().length == 1) return format_text(interpreter_, value.marked(), layout);
        if (!value.is_integral()) return failure("%c needs an integer or one character");
        const int64_t code = value.integer();
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
          return failure("{} is not a character", code);
        std::string character;
        unicode::encode(static_cast<char32_t>(code), character);
        return format_text(interpreter_, Marked(character), layout);
      }
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X': {
        const bool decimal = base_of(layout.type) == 10;
        if (!value.is_integral() && !(decimal && value.is(Kind::real)))
          return failure("%{} needs an integer, not {}", layout.type, type_name(value));
        int64_t number = 0;
        if (!to_integer(value, number))
          return failure("the number is an integer beyond 64 bits, which is not supported");
        if (layout.precision > kPrecisionMax) return failure("a precision of {} digits is too large", layout.precision);
        std::string digits = digits_of(magnitude(number), base_of(layout.type), layout.type == 'X');
        if (static_cast<int>(digits.size()) < layout.precision)
          digits.insert(0, static_cast<size_t>(layout.precision) - digits.size(), '0');
        zeros();
        return lay_out_number(interpreter_, layout, sign_of(number < 0, layout.sign),
                              layout.alternate ? prefix_of(layout.type) : "", digits);
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        if (!value.is_number()) return failure("%{} needs a number, not {}", layout.type, type_name(value));
        zeros();
        return format_real_spec(interpreter_, value.real(), layout);
      }
      default:
        return failure("unknown field \"%{}\" in a format", layout.type);
    }
  }

  Result<Marked> text_of(const Value& value, char type) {
    if (type == 's') return escape_ ? escape_value(interpreter_, value) : interpreter_.str(value);
    Marked out;
    if (type == 'r') {
      KEYE_TRY(out, to_repr(value, interpreter_.limits().string_bytes_max));
    } else {
      KEYE_TRY_VOID(BraceFormatter::write_ascii(value, out, interpreter_));
    }
    return escape_ ? escape_html(out) : out;
  }

  Interpreter& interpreter_;
  const Value& values_;
  bool escape_;
  bool single_;
  bool mapping_;
  bool taken_ = false;
  size_t next_ = 0;
  std::optional<Value> named_;
};

}  // namespace

std::string format_real(double value, char type, int precision, bool alternate) {
  const bool upper = type == 'E' || type == 'F' || type == 'G';
  if (!std::isfinite(value)) {
    std::string text = float_repr(value);
    if (upper) std::ranges::transform(text, text.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
    return text;
  }
  const char pattern[] = {
      '%', alternate ? '#' : '.', alternate ? '.' : '*', alternate ? '*' : type, alternate ? type : '\0', '\0'};
  const int size = std::snprintf(nullptr, 0, pattern, precision, value);
  std::string text(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(text.data(), text.size(), pattern, precision, value);
  text.pop_back();
  return text;
}

Result<Marked> format_value(Interpreter& interpreter, const Value& value, const Marked& spec) {
  if (spec.empty()) return interpreter.str(value);
  if (value.is_string()) {
    KEYE_TRY(const Layout layout, parse_spec(spec, false));
    return format_text(interpreter, value.marked(), layout);
  }
  if (!value.is_number()) return failure("a value of type {} takes no format", type_name(value));
  KEYE_TRY(const Layout layout, parse_spec(spec, true));
  return value.is(Kind::real) ? format_real_spec(interpreter, value.real(), layout)
                              : format_integer_spec(interpreter, value.integer(), layout);
}

Result<Value> format_percent(Interpreter& interpreter, const Value& format, const Value& values) {
  const bool markup = format.string().markup;
  KEYE_TRY(Marked text, PercentFormatter(interpreter, values, markup).format(format.marked()));
  return interpreter.string(std::move(text), markup);
}

Result<Value> format_braces(Interpreter& interpreter, const Value& format, const Arguments& arguments) {
  const bool markup = format.string().markup;
  KEYE_TRY(Marked text, BraceFormatter(interpreter, arguments, markup).format(format.marked(), 2));
  return interpreter.string(std::move(text), markup);
}

}  // namespace keye::text
