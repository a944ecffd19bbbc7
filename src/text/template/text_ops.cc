#include "text/template/text_ops.h"

#include <algorithm>

#include "text/template/characters.h"

namespace keye::text {

Marked escape_html(const Marked& text) {
  Marked out;
  for (size_t i = 0; i < text.size(); ++i) {
    switch (text.text[i]) {
      case '&':
        out.append("&amp;", text.origin_at(i));
        break;
      case '<':
        out.append("&lt;", text.origin_at(i));
        break;
      case '>':
        out.append("&gt;", text.origin_at(i));
        break;
      case '\'':
        out.append("&#39;", text.origin_at(i));
        break;
      case '"':
        out.append("&#34;", text.origin_at(i));
        break;
      default:
        out.append(text, i, 1);
    }
  }
  return out;
}

Marked escaped(const Value& string) { return string.string().markup ? string.marked() : escape_html(string.marked()); }

Result<Marked> escape_value(Interpreter& interpreter, const Value& value) {
  if (value.is_string()) return escaped(value);
  KEYE_TRY(const Marked text, interpreter.str(value));
  return escape_html(text);
}

Result<Value> repeat_text(Interpreter& interpreter, const Value& string, int64_t times) {
  const Marked& text = string.marked();
  Marked out;
  if (times > 0 && !text.empty()) {
    if (static_cast<uint64_t>(times) > interpreter.limits().string_bytes_max / text.size()) {
      KEYE_TRY_VOID(interpreter.check_bytes(SIZE_MAX));
    }
    for (int64_t i = 0; i < times; ++i) out.append(text);
  }
  return interpreter.string(std::move(out), string.string().markup);
}

Result<Value> repeat_items(Interpreter& interpreter, const Value& sequence, int64_t times) {
  Values out;
  const Values& items = sequence.items();
  if (times > 0 && !items.empty()) {
    if (static_cast<uint64_t>(times) > interpreter.limits().items_max / items.size()) {
      KEYE_TRY_VOID(interpreter.check_items(SIZE_MAX));
    }
    for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return sequence.is(Kind::list) ? interpreter.list(std::move(out)) : interpreter.tuple(std::move(out));
}

size_t byte_offset(const String& string, int64_t index) {
  if (string.ascii()) return static_cast<size_t>(index);
  const std::string& text = string.bytes.text;
  if (index > string.length / 2) {
    size_t at = text.size();
    for (int64_t i = string.length; i > index; --i) at = unicode::previous(text, at);
    return at;
  }
  size_t at = 0;
  for (int64_t i = 0; i < index; ++i) at += unicode::decode(text, at).bytes;
  return at;
}

Marked pick_characters(const String& string, int64_t start, int64_t step, int64_t count) {
  if (count <= 0) return {};
  if (step == 1) {
    const size_t begin = byte_offset(string, start);
    return string.bytes.slice(begin, byte_offset(string, start + count) - begin);
  }
  std::vector<size_t> starts;
  if (!string.ascii()) {
    for (size_t at = 0; at < string.bytes.size(); at += unicode::decode(string.bytes.text, at).bytes)
      starts.push_back(at);
  }
  Marked out;
  for (int64_t i = 0, at = start; i < count; ++i) {
    const size_t begin = string.ascii() ? static_cast<size_t>(at) : starts[static_cast<size_t>(at)];
    out.append(string.bytes, begin, unicode::decode(string.bytes.text, begin).bytes);
    if (i + 1 < count) at += step;  // a huge step may not be added once more than needed
  }
  return out;
}

Marked strip(const Marked& text, const std::string* characters, bool left, bool right) {
  const auto matches = [&](size_t at) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    if (characters == nullptr) return unicode::is_space(here.code);
    return characters->find(text.text.data() + at, 0, here.bytes) != std::string::npos;
  };
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end && matches(begin)) begin += unicode::decode(text.text, begin).bytes;
  while (right && end > begin) {
    const size_t last = unicode::previous(text.text, end);
    if (!matches(last)) break;
    end = last;
  }
  return text.slice(begin, end - begin);
}

std::vector<Marked> split_space(const Marked& text, int64_t most, bool from_right) {
  // The words first, as byte ranges; then what the limit leaves unsplit.
  std::vector<std::pair<size_t, size_t>> words;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    if (unicode::is_space(here.code)) {
      inside = false;
    } else {
      if (!inside) words.emplace_back(at, at);
      inside = true;
      words.back().second = at + here.bytes;
    }
    at += here.bytes;
  }
  std::vector<Marked> parts;
  const size_t limit = most < 0 ? SIZE_MAX : static_cast<size_t>(most);
  if (words.size() <= limit) {
    for (const auto& [begin, end] : words) parts.push_back(text.slice(begin, end - begin));
  } else if (from_right) {
    const size_t first = words.size() - limit;
    parts.push_back(strip(text.slice(0, words[first - 1].second), nullptr, false, false));
    for (size_t i = first; i < words.size(); ++i)
      parts.push_back(text.slice(words[i].first, words[i].second - words[i].first));
  } else {
    for (size_t i = 0; i < limit; ++i) parts.push_back(text.slice(words[i].first, words[i].second - words[i].first));
    parts.push_back(text.slice(words[limit].first, text.size() - words[limit].first));
  }
  return parts;
}

std::vector<Marked> split_at(const Marked& text, std::string_view separator, int64_t most, bool from_right) {
  std::vector<Marked> parts;
  if (from_right) {
    size_t end = text.size();
    while (most != 0) {
      const size_t found =
          end < separator.size() ? std::string::npos : text.text.rfind(separator, end - separator.size());
      if (found == std::string::npos) break;
      parts.push_back(text.slice(found + separator.size(), end - found - separator.size()));
      end = found;
      if (most > 0) --most;
    }
    parts.push_back(text.slice(0, end));
    std::ranges::reverse(parts);
    return parts;
  }
  size_t begin = 0;
  while (most != 0) {
    const size_t found = text.text.find(separator, begin);
    if (found == std::string::npos) break;
    parts.push_back(text.slice(begin, found - begin));
    begin = found + separator.size();
    if (most > 0) --most;
  }
  parts.push_back(text.slice(begin, text.size() - begin));
  return parts;
}

std::vector<Marked> split_lines(const Marked& text, bool keep_ends) {
  std::vector<Marked> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const unicode::Decoded here = unicode::decode(text.text, at);
    size_t after = at + here.bytes;
    if (unicode::is_line_break(here.code)) {
      if (here.code == '\r' && after < text.size() && text.text[after] == '\n') ++after;
      lines.push_back(text.slice(begin, (keep_ends ? after : at) - begin));
      begin = after;
    }
    at = after;
  }
  if (begin < text.size()) lines.push_back(text.slice(begin, text.size() - begin));
  return lines;
}

Result<Marked> replace_text(const Interpreter& interpreter, const Marked& text, const Marked& from, const Marked& to,
                            int64_t most) {
  Marked out;
  size_t copied = 0;
  size_t search = 0;
  while (most != 0) {
    const size_t found = text.text.find(from.text, search);
    if (found == std::string::npos) break;
    out.append(text, copied, found - copied);
    out.append(to);
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
    copied = found + from.size();
    search = copied;
    if (from.empty()) {
      // Between characters, and at both ends.
      if (found == text.size()) break;
      search = found + unicode::decode(text.text, found).bytes;
    }
    if (most > 0) --most;
  }
  out.append(text, copied, text.size() - copied);
  return out;
}

Result<Marked> pad(const Interpreter& interpreter, const Marked& text, int64_t length, int64_t width,
                   const Marked& fill, Align align) {
  if (width <= length) return text;
  const int64_t missing = width - length;
  if (static_cast<uint64_t>(missing) > interpreter.limits().string_bytes_max)
    KEYE_TRY_VOID(interpreter.check_bytes(SIZE_MAX));
  const int64_t left = align == Align::left ? 0 : align == Align::right ? missing : missing / 2;
  Marked out;
  for (int64_t i = 0; i < left; ++i) out.append(fill);
  out.append(text);
  for (int64_t i = left; i < missing; ++i) out.append(fill);
  return out;
}

int64_t count_characters(std::string_view text) {
  return std::ranges::count_if(text, [](char byte) { return (byte & 0xC0) != 0x80; });
}

}  // namespace keye::text
