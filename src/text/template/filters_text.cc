// The filters of jinja2 that make text from text.
#include <algorithm>

#include "text/template/builtin_tables.h"
#include "text/template/characters.h"
#include "text/template/format.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"
#include "text/template/word_wrap.h"

namespace keye::text {
namespace {

/// The value as a string, with markup kept.
Result<Value> soft_str(Interpreter& interpreter, const Value& value) {
  if (value.is_string()) return value;
  KEYE_TRY(Marked text, interpreter.str(value));
  return interpreter.string(std::move(text));
}

template <Marked (*mapped)(const Marked&)>
Result<Value> map_case(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(const Value text, soft_str(interpreter, value));
  return interpreter.string(mapped(text.marked()), text.string().markup);
}

Result<Value> call_method(Interpreter& interpreter, const Value& value, std::string_view name, Values arguments) {
  KEYE_TRY(const Value text, soft_str(interpreter, value));
  return call_builtin(interpreter, *find_method(text, name).method, text, {std::move(arguments), {}});
}

Result<Value> title(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(const Marked text, interpreter.str(value));
  const auto opens_word = [](char32_t code) {
    return unicode::is_space(code) ||
           (code < 0x80 && std::string_view("-({[<").find(static_cast<char>(code)) != std::string_view::npos);
  };
  Marked out;
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded first = unicode::decode(text.text, at);
    size_t end = at + first.bytes;
    const bool gap = opens_word(first.code);
    while (end < text.size()) {
      const unicode::Decoded here = unicode::decode(text.text, end);
      if (opens_word(here.code) != gap) break;
      end += here.bytes;
    }
    out.append(unicode::to_upper(text.slice(at, first.bytes)));
    out.append(unicode::to_lower(text.slice(at + first.bytes, end - at - first.bytes)));
    at = end;
  }
  return interpreter.string(std::move(out));
}

Result<Value> indent(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const Marked* text, text_argument(value, "what is indented"));
  Marked indention("    ");
  if (const Value& width = arguments.positional[0]; width.is_string()) {
    indention = width.marked();
  } else if (!width.is(Kind::missing)) {
    KEYE_TRY(const int64_t spaces, interpreter.index(width));
    KEYE_TRY_VOID(interpreter.check_bytes(static_cast<size_t>(std::max<int64_t>(spaces, 0))));
    indention = Marked(std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' '));
  }
  KEYE_TRY(const bool first, flag(interpreter, arguments.positional[1]));
  KEYE_TRY(const bool blank, flag(interpreter, arguments.positional[2]));
  Marked ended = *text;
  ended.append("\n");
  const std::vector<Marked> lines = split_lines(ended, false);
  Marked out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n");
    if (i == 0 ? first : blank || !lines[i].empty()) out.append(indention);
    out.append(lines[i]);
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
  }
  return interpreter.string(std::move(out), value.string().markup);
}

Result<Value> replace(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const Marked text, interpreter.str(value));
  KEYE_TRY(const Marked from, interpreter.str(arguments.positional[0]));
  KEYE_TRY(const Marked to, interpreter.str(arguments.positional[1]));
  KEYE_TRY(const int64_t most, number(interpreter, arguments.positional[2], -1));
  KEYE_TRY(Marked out, replace_text(interpreter, text, from, to, most));
  return interpreter.string(std::move(out));
}

Result<Value> truncate(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value length_given = arguments.positional[0].is(Kind::missing) ? Value(255) : arguments.positional[0];
  if (!length_given.is_number()) return failure("the length to truncate to must be a number");
  KEYE_TRY(const bool kill_words, flag(interpreter, arguments.positional[1]));
  const Value end = arguments.positional[2].is(Kind::missing) ? Value("...") : arguments.positional[2];
  KEYE_TRY_VOID(text_argument(end, "the end of a truncated text"));
  KEYE_TRY(const int64_t leeway, number(interpreter, arguments.positional[3], 5));
  if (compare_numbers(length_given, Value(end.string().length)) == -1)
    return failure("a text cannot be truncated to less than its end");
  if (leeway < 0) return failure("the leeway of truncate cannot be negative");
  KEYE_TRY(const int64_t size, interpreter.length(value));
  if (compare_numbers(Value(size - leeway), length_given) != 1) return value;
  KEYE_TRY(const int64_t length, interpreter.index(length_given));
  if (!value.is_string()) return failure("only a string can be truncated");
  Marked kept = pick_characters(value.string(), 0, 1, length - end.string().length);
  if (!kill_words) kept = split_at(kept, " ", 1, true).front();
  return interpreter.binary(ExprKind::add, Value(std::move(kept), value.string().markup), end);
}

std::string percent_encode(const Marked& text, bool query) {
  std::string out;
  for (const char c : text.text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~';
    if (plain || (c == '/' && !query)) {
      out.push_back(c);
    } else if (c == ' ' && query) {
      out.push_back('+');
    } else {
      out += fmt::format("%{:02X}", static_cast<uint8_t>(c));
    }
  }
  return out;
}

/// Percent-encoding loses whose bytes they were, so all get the origin of the most restricted one.
Marked url_quote(const Marked& text, bool query) {
  char origin = kOriginEngine;
  for (const char from : text.origin) {
    if (origin == kOriginEngine || from == kOriginUser) origin = from;
  }
  return Marked(percent_encode(text, query), origin);
}

Result<Value> url_encode(Interpreter& interpreter, const Value& value, Arguments&) {
  if (value.is_string() || !interpreter.is_iterable(value)) {
    KEYE_TRY(const Marked text, interpreter.str(value));
    return interpreter.string(url_quote(text, false));
  }
  Values pairs;
  if (value.is(Kind::dict)) {
    for (const Dict::Item& item : value.dict().items()) pairs.push_back(Value::tuple({item.key, item.value}));
  } else {
    KEYE_TRY(pairs, interpreter.collect(value));
  }
  Marked out;
  for (const Value& pair : pairs) {
    KEYE_TRY(const Values items, interpreter.collect(pair));
    if (items.size() != 2) return failure("urlencode needs pairs");
    KEYE_TRY(const Marked key, interpreter.str(items[0]));
    KEYE_TRY(const Marked text, interpreter.str(items[1]));
    if (&pair != &pairs.front()) out.append("&");
    out.append(url_quote(key, true));
    out.append("=");
    out.append(url_quote(text, true));
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
  }
  return interpreter.string(std::move(out));
}

Result<Value> word_count(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(const Marked text, interpreter.str(value));
  int64_t count = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    const bool word = here.code == '_' || unicode::is_alnum(here.code);
    count += word && !inside;
    inside = word;
    at += here.bytes;
  }
  return Value(count);
}

Result<Value> wrap(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const Marked* text, text_argument(value, "what is wrapped"));
  WrapStyle style;
  if (arguments.positional[0].is(Kind::real))
    return make_error(ErrorCode::unsupported, "", "a width that is not an integer is not supported");
  KEYE_TRY(style.width,
           arguments.positional[0].is(Kind::missing) ? int64_t{79} : interpreter.index(arguments.positional[0]));
  KEYE_TRY(style.break_long_words, flag(interpreter, arguments.positional[1], true));
  KEYE_TRY(style.break_on_hyphens, flag(interpreter, arguments.positional[3], true));
  Marked separator("\n");
  if (const Value& given = arguments.positional[2]; !given.is(Kind::missing) && !given.is(Kind::none)) {
    KEYE_TRY(const Marked* joined, text_argument(given, "what joins wrapped lines"));
    separator = *joined;
  }
  const std::vector<Marked> paragraphs = split_lines(*text, false);
  if (style.width <= 0 && !paragraphs.empty()) return failure("the width to wrap at must be positive");
  Marked out;
  for (size_t i = 0; i < paragraphs.size(); ++i) {
    if (i > 0) out.append(separator);
    const std::vector<Marked> lines = word_wrap(paragraphs[i], style);
    for (size_t j = 0; j < lines.size(); ++j) {
      if (j > 0) out.append(separator);
      out.append(lines[j]);
      KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
    }
  }
  return interpreter.string(std::move(out));
}

Result<Value> xml_attributes(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  if (!value.is(Kind::dict)) return failure("xmlattr needs a dict, not {}", type_name(value));
  KEYE_TRY(const bool space, flag(interpreter, arguments.positional[0], true));
  Marked out;
  for (const Dict::Item& item : value.dict().items()) {
    if (item.value.is(Kind::none) || item.value.is(Kind::undefined)) continue;
    KEYE_TRY(const Marked* key, text_argument(item.key, "the name of an attribute"));
    if (key->text.find_first_of(" \t\n\r\f\v/>=") != std::string::npos)
      return failure("\"{}\" cannot be the name of an attribute", key->text);
    KEYE_TRY(const Marked text, escape_value(interpreter, item.value));
    if (!out.empty() || space) out.append(" ");
    out.append(escaped(item.key));
    out.append("=\"");
    out.append(text);
    out.append("\"");
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
  }
  return interpreter.string(std::move(out));
}

Result<Value> escape(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(Marked text, escape_value(interpreter, value));
  return interpreter.string(std::move(text), true);
}

constexpr Builtin kFilters[] = {
    {"capitalize", "", false, map_case<unicode::capitalize>},
    {"center", "width?", true,
     [](Interpreter& interpreter, const Value& value, Arguments& arguments) {
       const Value& width = arguments.positional[0];
       return call_method(interpreter, value, "center", {width.is(Kind::missing) ? Value(80) : width});
     }},
    {"e", "", false, escape},
    {"escape", "", false, escape},
    {"forceescape", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) -> Result<Value> {
       KEYE_TRY(const Marked text, interpreter.str(value));
       return interpreter.string(escape_html(text), true);
     }},
    {"format", "*", true,
     [](Interpreter& interpreter, const Value& value, Arguments& arguments) -> Result<Value> {
       if (!arguments.positional.empty() && !arguments.named.empty())
         return failure("format takes arguments by position or by name, not both");
       KEYE_TRY(const Value text, soft_str(interpreter, value));
       Dict named;
       for (const auto& [name, argument] : arguments.named) named.set(name, argument);
       if (!named.empty()) return format_percent(interpreter, text, Value::dict(std::move(named)));
       return format_percent(interpreter, text, Value::tuple(std::move(arguments.positional)));
     }},
    {"indent", "width?,first?,blank?", true, indent},
    {"lower", "", false, map_case<unicode::to_lower>},
    {"replace", "old,new,count?", true, replace},
    {"safe", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) -> Result<Value> {
       KEYE_TRY(Marked text, interpreter.str(value));
       return interpreter.string(std::move(text), true);
     }},
    {"string", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) { return soft_str(interpreter, value); }},
    {"title", "", false, title},
    {"trim", "chars?", true,
     [](Interpreter& interpreter, const Value& value, Arguments& arguments) {
       const Value& characters = arguments.positional[0];
       return call_method(interpreter, value, "strip", {characters.is(Kind::missing) ? Value::none() : characters});
     }},
    {"truncate", "length?,killwords?,end?,leeway?", true, truncate},
    {"upper", "", false, map_case<unicode::to_upper>},
    {"urlencode", "", false, url_encode},
    {"wordcount", "", false, word_count},
    {"wordwrap", "width?,break_long_words?,wrapstring?,break_on_hyphens?", true, wrap},
    {"xmlattr", "autospace?", true, xml_attributes},
};

}  // namespace

std::span<const Builtin> text_filters() { return kFilters; }

}  // namespace keye::text
