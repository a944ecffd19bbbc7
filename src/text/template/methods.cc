// The methods of Python's str, list, tuple, dict and numbers.
#include <algorithm>
#include <charconv>

#include "text/template/builtin_tables.h"
#include "text/template/characters.h"
#include "text/template/format.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"

namespace keye::text {
namespace {

Result<Value> like(Interpreter& interpreter, const Value& self, Marked text) {
  return interpreter.string(std::move(text), self.string().markup);
}

Result<Value> like_all(Interpreter& interpreter, const Value& self, std::vector<Marked> parts) {
  Values items;
  items.reserve(parts.size());
  for (Marked& part : parts) items.emplace_back(std::move(part), self.string().markup);
  return interpreter.list(std::move(items));
}

/// Whether every character passes, and there is one.
template <bool (*passes)(char32_t)>
Result<Value> all_characters(Interpreter&, const Value& self, Arguments&) {
  const std::string& text = self.text();
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text, at);
    if (!passes(here.code)) return Value(false);
    at += here.bytes;
  }
  return Value(!text.empty());
}

template <Marked (*mapped)(const Marked&)>
Result<Value> map_case(Interpreter& interpreter, const Value& self, Arguments&) {
  return like(interpreter, self, mapped(self.marked()));
}

/// The part of a string between the characters `start` and `end`, either of which may be missing or none.
struct Part {
  size_t begin = 0;
  size_t bytes = 0;
  int64_t start = 0;
  bool exists = true;  // false if start lies behind the end of the string, or behind `end`
};
Result<Part> part_of(Interpreter& interpreter, const String& string, const Value& start, const Value& end) {
  KEYE_TRY(int64_t first, number(interpreter, start, 0));
  KEYE_TRY(int64_t last, number(interpreter, end, string.length));
  if (first < 0) first = std::max<int64_t>(first + string.length, 0);
  if (last < 0) last = std::max<int64_t>(last + string.length, 0);
  last = std::min(last, string.length);
  if (first > last) return Part{0, 0, first, false};
  const size_t begin = byte_offset(string, first);
  return Part{begin, byte_offset(string, last) - begin, first, true};
}

Result<int64_t> search(Interpreter& interpreter, const Value& self, const Arguments& arguments, bool from_right) {
  KEYE_TRY(const Marked* wanted, text_argument(arguments.positional[0], "what is searched for"));
  KEYE_TRY(const Part part, part_of(interpreter, self.string(), arguments.positional[1], arguments.positional[2]));
  if (!part.exists) return int64_t{-1};
  const std::string_view text = std::string_view(self.text()).substr(part.begin, part.bytes);
  const size_t found = from_right ? text.rfind(wanted->text) : text.find(wanted->text);
  return found == std::string_view::npos ? int64_t{-1} : part.start + count_characters(text.substr(0, found));
}

template <bool from_right, bool required>
Result<Value> find_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const int64_t found, search(interpreter, self, arguments, from_right));
  if (required && found < 0) return failure("the text searched for is not there");
  return Value(found);
}

Result<Value> count_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Marked* wanted, text_argument(arguments.positional[0], "what is counted"));
  KEYE_TRY(const Part part, part_of(interpreter, self.string(), arguments.positional[1], arguments.positional[2]));
  if (!part.exists) return Value(0);
  const std::string_view text = std::string_view(self.text()).substr(part.begin, part.bytes);
  if (wanted->empty()) return Value(count_characters(text) + 1);
  int64_t count = 0;
  for (size_t at = text.find(wanted->text); at != std::string_view::npos;
       at = text.find(wanted->text, at + wanted->size()))
    ++count;
  return Value(count);
}

template <bool at_end>
Result<Value> has_affix(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Part part, part_of(interpreter, self.string(), arguments.positional[1], arguments.positional[2]));
  const std::string_view text = std::string_view(self.text()).substr(part.begin, part.bytes);
  const Value& affixes = arguments.positional[0];
  const Values single = {affixes};
  for (const Value& affix : affixes.is(Kind::tuple) ? affixes.items() : single) {
    KEYE_TRY(const Marked* wanted, text_argument(affix, "a prefix or suffix"));
    if (part.exists && (at_end ? text.ends_with(wanted->text) : text.starts_with(wanted->text))) return Value(true);
  }
  return Value(false);
}

template <bool left, bool right>
Result<Value> strip_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Value& characters = arguments.positional[0];
  if (characters.is(Kind::missing) || characters.is(Kind::none))
    return like(interpreter, self, strip(self.marked(), nullptr, left, right));
  KEYE_TRY(const Marked* set, text_argument(characters, "the characters to strip"));
  return like(interpreter, self, strip(self.marked(), &set->text, left, right));
}

template <bool from_right>
Result<Value> split_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Value& separator = arguments.positional[0];
  KEYE_TRY(const int64_t most,
           arguments.positional[1].is(Kind::missing) ? int64_t{-1} : interpreter.index(arguments.positional[1]));
  if (separator.is(Kind::missing) || separator.is(Kind::none))
    return like_all(interpreter, self, split_space(self.marked(), most, from_right));
  KEYE_TRY(const Marked* at, text_argument(separator, "a separator"));
  if (at->empty()) return failure("a separator cannot be empty");
  return like_all(interpreter, self, split_at(self.marked(), at->text, most, from_right));
}

template <bool from_right>
Result<Value> partition_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Marked* separator, text_argument(arguments.positional[0], "a separator"));
  if (separator->empty()) return failure("a separator cannot be empty");
  const Marked& text = self.marked();
  const bool markup = self.string().markup;
  const size_t found = from_right ? text.text.rfind(separator->text) : text.text.find(separator->text);
  Marked parts[3];
  if (found == std::string::npos) {
    parts[from_right ? 2 : 0] = text;
  } else {
    const size_t after = found + separator->size();
    parts[0] = text.slice(0, found);
    parts[1] = text.slice(found, separator->size());
    parts[2] = text.slice(after, text.size() - after);
  }
  return interpreter.tuple(
      {Value(std::move(parts[0]), markup), Value(std::move(parts[1]), markup), Value(std::move(parts[2]), markup)});
}

Result<Value> join_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Values items, interpreter.collect(arguments.positional[0]));
  Marked out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(self.marked());
    if (self.string().markup) {
      KEYE_TRY(const Marked item, escape_value(interpreter, items[i]));
      out.append(item);
    } else {
      KEYE_TRY(const Marked* item, text_argument(items[i], "what is joined"));
      out.append(*item);
    }
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
  }
  return like(interpreter, self, std::move(out));
}

Result<Value> replace_in_text(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Marked* from, text_argument(arguments.positional[0], "what is replaced"));
  KEYE_TRY(const int64_t most,
           arguments.positional[2].is(Kind::missing) ? int64_t{-1} : interpreter.index(arguments.positional[2]));
  Marked replacement;
  if (self.string().markup) {
    KEYE_TRY(replacement, escape_value(interpreter, arguments.positional[1]));
  } else {
    KEYE_TRY(const Marked* to, text_argument(arguments.positional[1], "a replacement"));
    replacement = *to;
  }
  KEYE_TRY(Marked out, replace_text(interpreter, self.marked(), *from, replacement, most));
  return like(interpreter, self, std::move(out));
}

template <Align align>
Result<Value> justify(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const int64_t width, interpreter.index(arguments.positional[0]));
  Marked fill(" ");
  if (!arguments.positional[1].is(Kind::missing)) {
    KEYE_TRY(const Marked* given, text_argument(arguments.positional[1], "what fills up a text"));
    fill = self.string().markup ? escaped(arguments.positional[1]) : *given;
    if (count_characters(fill.text) != 1) return failure("a text is filled up with one character");
  }
  const String& string = self.string();
  if (align == Align::center && width > string.length) {
    // str.center puts the odd one on the left if the width is odd too.
    const int64_t missing = width - string.length;
    const int64_t left = missing / 2 + (missing & width & 1);
    KEYE_TRY(const Marked half,
             pad(interpreter, string.bytes, string.length, string.length + left, fill, Align::right));
    KEYE_TRY(Marked whole, pad(interpreter, half, string.length + left, width, fill, Align::left));
    return like(interpreter, self, std::move(whole));
  }
  KEYE_TRY(Marked padded, pad(interpreter, string.bytes, string.length, width, fill, align));
  return like(interpreter, self, std::move(padded));
}

Result<Value> zero_fill(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const int64_t width, interpreter.index(arguments.positional[0]));
  const String& string = self.string();
  const bool sign = !string.bytes.empty() && (string.bytes.text[0] == '-' || string.bytes.text[0] == '+');
  const Marked digits = string.bytes.slice(sign ? 1 : 0, string.bytes.size() - (sign ? 1 : 0));
  Marked out = string.bytes.slice(0, sign ? 1 : 0);
  KEYE_TRY(const Marked padded, pad(interpreter, digits, string.length, width, Marked("0"), Align::right));
  out.append(padded);
  return like(interpreter, self, std::move(out));
}

Result<Value> expand_tabs(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const int64_t size, number(interpreter, arguments.positional[0], 8));
  const Marked& text = self.marked();
  Marked out;
  int64_t column = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = unicode::decode(text.text, at).bytes;
    const char c = text.text[at];
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      if (static_cast<uint64_t>(spaces) > interpreter.limits().string_bytes_max)
        KEYE_TRY_VOID(interpreter.check_bytes(SIZE_MAX));
      out.append(std::string(static_cast<size_t>(spaces), ' '), text.origin_at(at));
      column += spaces;
    } else {
      out.append(text, at, bytes);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
    at += bytes;
  }
  return like(interpreter, self, std::move(out));
}

template <bool at_end>
Result<Value> remove_affix(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  KEYE_TRY(const Marked* affix, text_argument(arguments.positional[0], "a prefix or suffix"));
  const Marked& text = self.marked();
  const bool there = at_end ? text.text.ends_with(affix->text) : text.text.starts_with(affix->text);
  if (!there) return like(interpreter, self, text);
  return like(interpreter, self, text.slice(at_end ? 0 : affix->size(), text.size() - affix->size()));
}

/// str.islower and str.isupper: some cased character, and none of the wrong case.
template <bool upper>
Result<Value> only_case(Interpreter& interpreter, const Value& self, Arguments&) {
  KEYE_TRY(const bool holds, interpreter.call_test(upper ? "upper" : "lower", self, {}));
  return Value(holds);
}

Result<Value> is_title(Interpreter&, const Value& self, Arguments&) {
  bool cased = false;
  bool inside = false;
  for (size_t at = 0; at < self.text().size();) {
    const unicode::Decoded here = unicode::decode(self.text(), at);
    const bool opens = unicode::is_upper(here.code) || unicode::is_title(here.code);
    const bool continues = unicode::is_lower(here.code);
    if ((opens && inside) || (continues && !inside)) return Value(false);
    inside = opens || continues;
    cased = cased || inside;
    at += here.bytes;
  }
  return Value(cased);
}

Result<Value> is_identifier(Interpreter&, const Value& self, Arguments&) {
  const std::string& text = self.text();
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text, at);
    if (!(at == 0 ? unicode::is_identifier_start(here.code) : unicode::is_identifier_part(here.code)))
      return Value(false);
    at += here.bytes;
  }
  return Value(!text.empty());
}

constexpr Builtin kTextMethods[] = {
    {"capitalize", "", false, map_case<unicode::capitalize>},
    {"casefold", "", false, map_case<unicode::fold_case>},
    {"center", "width,fillchar?", false, justify<Align::center>},
    {"count", "sub,start?,end?", false, count_text},
    {"endswith", "suffix,start?,end?", false, has_affix<true>},
    {"expandtabs", "tabsize?", true, expand_tabs},
    {"find", "sub,start?,end?", false, find_text<false, false>},
    {"format", "*", true,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) {
       return format_braces(interpreter, self, arguments);
     }},
    {"format_map", "mapping", false,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) -> Result<Value> {
       const Value& mapping = arguments.positional[0];
       if (!mapping.is(Kind::dict)) return failure("format_map needs a dict");
       Arguments named;
       for (const Dict::Item& item : mapping.dict().items()) {
         if (item.key.is_string()) named.named.emplace_back(item.key.text(), item.value);
       }
       return format_braces(interpreter, self, named);
     }},
    {"index", "sub,start?,end?", false, find_text<false, true>},
    {"isalnum", "", false, all_characters<unicode::is_alnum>},
    {"isalpha", "", false, all_characters<unicode::is_alpha>},
    {"isascii", "", false,
     [](Interpreter&, const Value& self, Arguments&) -> Result<Value> { return Value(self.string().ascii()); }},
    {"isdecimal", "", false, all_characters<unicode::is_decimal>},
    {"isdigit", "", false, all_characters<unicode::is_digit>},
    {"isidentifier", "", false, is_identifier},
    {"islower", "", false, only_case<false>},
    {"isnumeric", "", false, all_characters<unicode::is_numeric>},
    {"isprintable", "", false,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) -> Result<Value> {
       if (self.text().empty()) return Value(true);
       return all_characters<unicode::is_printable>(interpreter, self, arguments);
     }},
    {"isspace", "", false, all_characters<unicode::is_space>},
    {"istitle", "", false, is_title},
    {"isupper", "", false, only_case<true>},
    {"join", "iterable", false, join_text},
    {"ljust", "width,fillchar?", false, justify<Align::left>},
    {"lower", "", false, map_case<unicode::to_lower>},
    {"lstrip", "chars?", false, strip_text<true, false>},
    {"partition", "sep", false, partition_text<false>},
    {"removeprefix", "prefix", false, remove_affix<false>},
    {"removesuffix", "suffix", false, remove_affix<true>},
    {"replace", "old,new,count?", false, replace_in_text},
    {"rfind", "sub,start?,end?", false, find_text<true, false>},
    {"rindex", "sub,start?,end?", false, find_text<true, true>},
    {"rjust", "width,fillchar?", false, justify<Align::right>},
    {"rpartition", "sep", false, partition_text<true>},
    {"rsplit", "sep?,maxsplit?", true, split_text<true>},
    {"rstrip", "chars?", false, strip_text<false, true>},
    {"split", "sep?,maxsplit?", true, split_text<false>},
    {"splitlines", "keepends?", true,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) -> Result<Value> {
       KEYE_TRY(const bool keep, integer_flag(interpreter, arguments.positional[0]));
       return like_all(interpreter, self, split_lines(self.marked(), keep));
     }},
    {"startswith", "prefix,start?,end?", false, has_affix<false>},
    {"strip", "chars?", false, strip_text<true, true>},
    {"swapcase", "", false, map_case<unicode::swap_case>},
    {"title", "", false, map_case<unicode::to_title>},
    {"upper", "", false, map_case<unicode::to_upper>},
    {"zfill", "width", false, zero_fill},
};

Result<Value> count_items(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  int64_t count = 0;
  for (const Value& item : self.items()) {
    KEYE_TRY(const bool same, interpreter.equals(item, arguments.positional[0]));
    count += same;
  }
  return Value(count);
}

Result<Value> index_of(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const auto size = static_cast<int64_t>(self.items().size());
  KEYE_TRY(int64_t start,
           arguments.positional[1].is(Kind::missing) ? int64_t{0} : interpreter.index(arguments.positional[1]));
  KEYE_TRY(int64_t end, arguments.positional[2].is(Kind::missing) ? size : interpreter.index(arguments.positional[2]));
  if (start < 0) start = std::max<int64_t>(start + size, 0);
  if (end < 0) end = std::max<int64_t>(end + size, 0);
  for (int64_t i = start; i < std::min(end, size); ++i) {
    KEYE_TRY(const bool same, interpreter.equals(self.items()[static_cast<size_t>(i)], arguments.positional[0]));
    if (same) return Value(i);
  }
  return failure("the item searched for is not there");
}

constexpr Builtin kSequenceMethods[] = {{"count", "value", false, count_items},
                                        {"index", "value,start?,stop?", false, index_of}};
constexpr Builtin kListCopy = {"copy", "", false, [](Interpreter& interpreter, const Value& self, Arguments&) {
                                 return interpreter.list(self.items());
                               }};

template <DictView::Part part>
Result<Value> view(Interpreter&, const Value& self, Arguments&) {
  return Value::object(std::make_shared<DictView>(self, part), self.depth() + 1);
}

constexpr Builtin kDictMethods[] = {
    {"get", "key,default?", false,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) -> Result<Value> {
       if (const Value& key = arguments.positional[0]; !is_hashable_object(key)) {
         KEYE_TRY_VOID(interpreter.require_hashable(key));
         if (const Value* found = self.dict().find(key)) return *found;
       }
       return arguments.positional[1].is(Kind::missing) ? Value::none() : arguments.positional[1];
     }},
    {"items", "", false, view<DictView::Part::items>},
    {"keys", "", false, view<DictView::Part::keys>},
    {"values", "", false, view<DictView::Part::values>},
    {"copy", "", false,
     [](Interpreter& interpreter, const Value& self, Arguments&) { return interpreter.dict(self.dict()); }},
};

constexpr Builtin kFloatMethods[] = {
    {"is_integer", "", false,
     [](Interpreter&, const Value& self, Arguments&) -> Result<Value> {
       return Value(compare_numbers(self, Value(std::trunc(self.real()))) == 0);
     }},
};

const Builtin* find_in(std::span<const Builtin> methods, std::string_view name) {
  const auto found = std::ranges::find(methods, name, &Builtin::name);
  return found == methods.end() ? nullptr : &*found;
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

}  // namespace

MethodLookup find_method(const Value& self, std::string_view name) {
  switch (self.kind()) {
    case Kind::string:
      return {find_in(kTextMethods, name), false,
              is_one_of(name, {"encode", "translate", "maketrans"}) ||
                  (self.string().markup && is_one_of(name, {"striptags", "unescape", "escape"}))};
    case Kind::list:
      if (name == "copy") return {&kListCopy, false, false};
      return {find_in(kSequenceMethods, name),
              is_one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"}), false};
    case Kind::tuple:
      return {find_in(kSequenceMethods, name), false, false};
    case Kind::dict:
      return {find_in(kDictMethods, name), is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update"}),
              name == "fromkeys"};
    case Kind::real:
      return {find_in(kFloatMethods, name), false,
              is_one_of(name, {"hex", "fromhex", "conjugate", "as_integer_ratio"})};
    case Kind::boolean:
    case Kind::integer:
    case Kind::big_integer:
      return {nullptr, false,
              is_one_of(name, {"bit_length", "bit_count", "conjugate", "as_integer_ratio", "to_bytes", "from_bytes"})};
    case Kind::object: {
      const std::string_view type = type_name(self);
      return {nullptr, false,
              (type == "range" && is_one_of(name, {"count", "index"})) ||
                  (type.starts_with("dict_") && is_one_of(name, {"isdisjoint", "mapping"}))};
    }
    default:
      return {};
  }
}

Result<bool> flag(Interpreter& interpreter, const Value& argument, bool otherwise) {
  if (argument.is(Kind::missing)) return otherwise;
  return interpreter.truthy(argument);
}

Result<bool> integer_flag(Interpreter& interpreter, const Value& argument) {
  if (argument.is(Kind::missing)) return false;
  KEYE_TRY(const int64_t given, interpreter.index(argument));
  return given != 0;
}

Result<int64_t> number(Interpreter& interpreter, const Value& argument, int64_t otherwise) {
  if (argument.is(Kind::missing) || argument.is(Kind::none)) return otherwise;
  return interpreter.index(argument);
}

Result<const Marked*> text_argument(const Value& argument, std::string_view what) {
  if (argument.is_string()) return &argument.marked();
  if (argument.is(Kind::undefined)) return undefined_error(argument);
  return failure("{} must be a string, not {}", what, type_name(argument));
}

}  // namespace keye::text
