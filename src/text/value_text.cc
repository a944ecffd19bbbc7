#include "text/value_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/characters.h"

namespace keye::text {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";

std::string hex_escape(char letter, uint32_t code, int digits) {
  std::string escape = {'\\', letter};
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) escape.push_back(kHex[(code >> shift) & 15]);
  return escape;
}

/// How repr() writes a character that it does not copy.
std::string python_escape(char32_t code) {
  switch (code) {
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  if (code <= 0xFF) return hex_escape('x', code, 2);
  return code <= 0xFFFF ? hex_escape('u', code, 4) : hex_escape('U', code, 8);
}

/// How JSON writes a character that may not stand for itself, or nothing if it may.
std::string json_escape(char32_t code, bool ensure_ascii) {
  switch (code) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\f':
      return "\\f";
    case '\b':
      return "\\b";
    default:
      break;
  }
  if (code < 0x20) return hex_escape('u', code, 4);
  if (!ensure_ascii || code < 0x7F) return {};
  if (code <= 0xFFFF) return hex_escape('u', code, 4);
  const uint32_t offset = code - 0x10000;
  return hex_escape('u', 0xD800 + (offset >> 10), 4) + hex_escape('u', 0xDC00 + (offset & 0x3FF), 4);
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, size_t bytes_max) : style_(style), bytes_max_(bytes_max) {
    item_separator_ = style.item_separator.value_or(style.indent ? "," : ", ");
    key_separator_ = style.key_separator.value_or(": ");
  }

  Result<void> write(const Value& value) {
    switch (value.kind()) {
      case Kind::string:
        return write_string(value.marked());
      case Kind::list:
      case Kind::tuple:
        return write_list(value.items());
      case Kind::dict:
        return write_dict(value.dict());
      default: {
        KEYE_TRY(const std::string text, scalar(value));
        return put(Marked(text));
      }
    }
  }

  Marked finish() && { return std::move(out_); }

 private:
  Result<void> put(const Marked& bytes) {
    if (out_.size() + bytes.size() > bytes_max_) {
      return make_error(ErrorCode::too_large, "", "the JSON text is longer than {} bytes", bytes_max_);
    }
    out_.append(bytes);
    return {};
  }

  static Result<std::string> scalar(const Value& value) {
    switch (value.kind()) {
      case Kind::none:
        return std::string("null");
      case Kind::boolean:
        return std::string(value.boolean() ? "true" : "false");
      case Kind::integer:
        return std::to_string(value.integer());
      case Kind::big_integer:
        return value.note();
      case Kind::real:
        if (std::isnan(value.real())) return std::string("NaN");
        if (std::isinf(value.real())) return std::string(value.real() < 0 ? "-Infinity" : "Infinity");
        return float_repr(value.real());
      default:
        return make_error(ErrorCode::invalid_argument, "", "a value of type {} cannot be written as JSON",
                          type_name(value));
    }
  }

  Result<void> write_string(const Marked& text) {
    Marked quoted;
    quoted.append("\"");
    size_t copied = 0;
    for (size_t at = 0; at < text.size();) {
      const unicode::Decoded here = unicode::decode(text.text, at);
      if (const std::string escape = json_escape(here.code, style_.ensure_ascii); !escape.empty()) {
        quoted.append(text, copied, at - copied);
        quoted.append(escape, text.origin_at(at));
        copied = at + here.bytes;
      }
      at += here.bytes;
    }
    quoted.append(text, copied, text.size() - copied);
    quoted.append("\"");
    return put(quoted);
  }

  Result<void> new_line() {
    if (!style_.indent) return {};
    Marked line("\n");
    for (int i = 0; i < level_; ++i) line.append(*style_.indent);
    return put(line);
  }

  Result<void> write_list(const Values& items) {
    if (items.empty()) return put(Marked("[]"));
    KEYE_TRY_VOID(put(Marked("[")));
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) KEYE_TRY_VOID(put(item_separator_));
      KEYE_TRY_VOID(new_line());
      KEYE_TRY_VOID(write(items[i]));
    }
    --level_;
    KEYE_TRY_VOID(new_line());
    return put(Marked("]"));
  }

  Result<std::vector<const Dict::Item*>> ordered(const Dict& dict) {
    std::vector<const Dict::Item*> items;
    for (const Dict::Item& item : dict.items()) items.push_back(&item);
    if (!style_.sort_keys || items.size() < 2) return items;
    const bool strings = std::ranges::all_of(items, [](const auto* item) { return item->key.is_string(); });
    const bool numbers = std::ranges::all_of(items, [](const auto* item) { return item->key.is_number(); });
    if (!strings && !numbers) {
      return make_error(ErrorCode::invalid_argument, "", "keys of different types have no order to sort them by");
    }
    std::ranges::stable_sort(items, [&](const auto* a, const auto* b) {
      return strings ? a->key.text() < b->key.text() : compare_numbers(a->key, b->key) == -1;
    });
    return items;
  }

  Result<void> write_dict(const Dict& dict) {
    if (dict.empty()) return put(Marked("{}"));
    KEYE_TRY(const auto items, ordered(dict));
    KEYE_TRY_VOID(put(Marked("{")));
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) KEYE_TRY_VOID(put(item_separator_));
      KEYE_TRY_VOID(new_line());
      if (items[i]->key.is_string()) {
        KEYE_TRY_VOID(write_string(items[i]->key.marked()));
      } else {
        KEYE_TRY(const std::string key, scalar(items[i]->key));
        KEYE_TRY_VOID(put(Marked("\"" + key + "\"")));
      }
      KEYE_TRY_VOID(put(key_separator_));
      KEYE_TRY_VOID(write(items[i]->value));
    }
    --level_;
    KEYE_TRY_VOID(new_line());
    return put(Marked("}"));
  }

  const JsonStyle& style_;
  size_t bytes_max_;
  Marked item_separator_;
  Marked key_separator_;
  Marked out_;
  int level_ = 0;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (shortest.front() == '-') {
    out = "-";
    shortest.remove_prefix(1);
  }
  const size_t e = shortest.find('e');
  const int exponent = std::atoi(std::string(shortest.substr(e + 1)).c_str());
  std::string digits(1, shortest[0]);
  if (e > 2) digits += shortest.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

Result<void> Object::write_repr(ReprWriter&) const {
  return make_error(ErrorCode::unsupported, "", "a {} has no text: Python would print its address", type_name());
}

Result<void> ReprWriter::put(std::string_view bytes, char origin) {
  if (out_.size() + bytes.size() > bytes_max_) {
    return make_error(ErrorCode::too_large, "", "the text is longer than {} bytes", bytes_max_);
  }
  out_.append(bytes, origin);
  return {};
}

Result<void> ReprWriter::write_quoted(const Marked& text, bool ascii_only) {
  const bool single = text.text.find('\'') != std::string::npos;
  const char quote = single && text.text.find('"') == std::string::npos ? '"' : '\'';
  KEYE_TRY_VOID(put({&quote, 1}));
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    const char origin = text.origin_at(at);
    if (here.code == static_cast<char32_t>(quote)) {
      KEYE_TRY_VOID(put(std::string("\\") + quote, origin));
    } else if (here.code == '\\' || !unicode::is_printable(here.code) || (ascii_only && here.code > 0x7F)) {
      KEYE_TRY_VOID(put(python_escape(here.code), origin));
    } else {
      KEYE_TRY_VOID(put(std::string_view(text.text).substr(at, here.bytes), origin));
    }
    at += here.bytes;
  }
  return put({&quote, 1});
}

Result<void> ReprWriter::write_items(const Values& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) KEYE_TRY_VOID(put(", "));
    KEYE_TRY_VOID(write(items[i]));
  }
  return {};
}

Result<void> ReprWriter::write_dict(const Dict& dict, const void* identity) {
  if (std::ranges::find(open_, identity) != open_.end()) return put("{...}");
  open_.push_back(identity);
  KEYE_TRY_VOID(put("{"));
  bool first = true;
  for (const Dict::Item& item : dict.items()) {
    if (!first) KEYE_TRY_VOID(put(", "));
    first = false;
    KEYE_TRY_VOID(write(item.key));
    KEYE_TRY_VOID(put(": "));
    KEYE_TRY_VOID(write(item.value));
  }
  open_.pop_back();
  return put("}");
}

Result<void> ReprWriter::write(const Value& value) {
  switch (value.kind()) {
    case Kind::missing:
    case Kind::undefined:
      return put("Undefined");
    case Kind::none:
      return put("None");
    case Kind::boolean:
      return put(value.boolean() ? "True" : "False");
    case Kind::integer:
      return put(std::to_string(value.integer()));
    case Kind::big_integer:
      return put(value.note());
    case Kind::real:
      return put(float_repr(value.real()));
    case Kind::string:
      if (!value.string().markup) return write_quoted(value.marked());
      KEYE_TRY_VOID(put("Markup("));
      KEYE_TRY_VOID(write_quoted(value.marked()));
      return put(")");
    case Kind::list:
      KEYE_TRY_VOID(put("["));
      KEYE_TRY_VOID(write_items(value.items()));
      return put("]");
    case Kind::tuple:
      KEYE_TRY_VOID(put("("));
      KEYE_TRY_VOID(write_items(value.items()));
      return put(value.items().size() == 1 ? ",)" : ")");
    case Kind::dict:
      return write_dict(value.dict(), value.address());
    case Kind::object:
      return value.object().write_repr(*this);
  }
  return {};
}

Result<Marked> to_repr(const Value& value, size_t bytes_max) {
  Marked out;
  ReprWriter writer(out, bytes_max);
  KEYE_TRY_VOID(writer.write(value));
  return out;
}

Result<Marked> to_str(const Value& value, size_t bytes_max) {
  if (value.is_string()) return value.marked();
  if (value.is(Kind::undefined) || value.is(Kind::missing)) return Marked();
  return to_repr(value, bytes_max);
}

Result<Marked> to_json(const Value& value, const JsonStyle& style, size_t bytes_max) {
  JsonWriter writer(style, bytes_max);
  KEYE_TRY_VOID(writer.write(value));
  return std::move(writer).finish();
}

}  // namespace keye::text
