#include "text/template/lexer.h"

#include <algorithm>
#include <optional>

#include "text/template/characters.h"

namespace keye::text {
namespace {

constexpr size_t kSourceBytesMax = size_t{4} << 20;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The digits of a base-`base` number, single underscores between them, from `at`; returns where they end.
size_t skip_digits(std::string_view text, size_t at, int base, bool underscore_first) {
  const auto digit = [&](size_t i) {
    if (i >= text.size()) return false;
    const char c = text[i];
    const int value = is_digit(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : 99;
    return value < base;
  };
  size_t end = at;
  while (digit(end) || (end < text.size() && text[end] == '_' && (end > at || underscore_first) && digit(end + 1)))
    ++end;
  return end;
}

std::string normalise_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view where) : where_(where), source_(normalise_newlines(source)) {
    if (source_.ends_with('\n')) source_.pop_back();
    text_ = source_;
  }

  Result<std::vector<Token>> run() {
    while (at_ < text_.size()) KEYE_TRY_VOID(lex_data());
    add(TokenKind::end, at_, "");
    return std::move(tokens_);
  }

 private:
  enum class Tag { raw, comment, block, variable };

  bool has(size_t at, std::string_view expected) const {
    return text_.substr(std::min(at, text_.size()), expected.size()) == expected;
  }

  size_t skip_space(size_t at) const {
    while (at < text_.size()) {
      const unicode::Decoded here = unicode::decode(text_, at);
      if (!unicode::is_space(here.code)) break;
      at += here.bytes;
    }
    return at;
  }

  /// Positions only ever grow, so that the whole source is counted once.
  Position position(size_t offset) {
    for (; counted_ < offset && counted_ < text_.size(); ++counted_) {
      if (text_[counted_] == '\n') {
        ++here_.line;
        here_.column = 1;
      } else if ((text_[counted_] & 0xC0) != 0x80) {
        ++here_.column;
      }
    }
    return here_;
  }

  void add(TokenKind kind, size_t offset, std::string text) {
    tokens_.push_back({kind, position(offset), std::move(text)});
  }
  Error error(size_t offset, std::string message) { return syntax_error(where_, position(offset), std::move(message)); }

  /// Where "{% name %}" at `at`, its signs and spaces included, ends; nothing if that is not there. `trim` also takes
  /// the newline after it, and allows "+%}".
  std::optional<size_t> match_bare_tag(size_t at, std::string_view name, bool trim) const {
    at += 2;
    if (has(at, "-") || has(at, "+")) ++at;
    at = skip_space(at);
    if (!has(at, name)) return std::nullopt;
    at = skip_space(at + name.size());
    return trim             ? match_block_end(at)
           : has(at, "-%}") ? std::optional(skip_space(at + 3))
           : has(at, "%}")  ? std::optional(at + 2)
                            : std::nullopt;
  }

  std::optional<size_t> match_end(size_t at, std::string_view close) const {
    if (has(at, "-") && has(at + 1, close)) return skip_space(at + 1 + close.size());
    if (has(at, "+") && has(at + 1, close)) return at + 1 + close.size();
    if (!has(at, close)) return std::nullopt;
    at += close.size();
    return has(at, "\n") ? at + 1 : at;
  }
  std::optional<size_t> match_block_end(size_t at) const { return match_end(at, "%}"); }
  std::optional<size_t> match_variable_end(size_t at) const {
    if (has(at, "-}}")) return skip_space(at + 3);
    return has(at, "}}") ? std::optional(at + 2) : std::nullopt;
  }

  /// Emits the text [begin, end) before a tag, less what the tag's sign and lstrip_blocks take from its end.
  void add_data(size_t begin, size_t end, char sign, bool variable) {
    std::string_view data = text_.substr(begin, end - begin);
    if (sign == '-') {
      while (!data.empty()) {
        const size_t last = unicode::previous(data, data.size());
        if (!unicode::is_space(unicode::decode(data, last).code)) break;
        data = data.substr(0, last);
      }
    } else if (sign != '+' && !variable) {
      const size_t newline = data.rfind('\n');
      const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      const bool line_starts = begin == 0 || text_[begin - 1] == '\n';
      if ((line > 0 || line_starts) && skip_space(begin + line) >= end) data = data.substr(0, line);
    }
    if (!data.empty()) add(TokenKind::data, begin, std::string(data));
  }

  Result<void> lex_data() {
    const size_t begin = at_;
    size_t open = text_.find('{', at_);
    while (open != std::string_view::npos && !has(open, "{{") && !has(open, "{%") && !has(open, "{#")) {
      open = text_.find('{', open + 1);
    }
    if (open == std::string_view::npos) {
      add(TokenKind::data, begin, std::string(text_.substr(begin)));
      at_ = text_.size();
      return {};
    }
    const std::optional<size_t> raw = has(open, "{%") ? match_bare_tag(open, "raw", false) : std::nullopt;
    const char sign =
        open + 2 < text_.size() && (text_[open + 2] == '-' || text_[open + 2] == '+') ? text_[open + 2] : ' ';
    const bool variable = has(open, "{{");
    add_data(begin, open, sign, variable);
    at_ = raw ? *raw : open + (sign == ' ' ? 2 : 3);
    if (raw) return lex_raw(open);
    if (has(open, "{#")) return lex_comment(open);
    add(variable ? TokenKind::variable_begin : TokenKind::block_begin, open, "");
    return lex_code(variable);
  }

  Result<void> lex_raw(size_t open) {
    const size_t begin = at_;
    for (size_t i = text_.find("{%", begin); i != std::string_view::npos; i = text_.find("{%", i + 1)) {
      if (const auto end = match_bare_tag(i, "endraw", true)) {
        add_data(begin, i, text_[i + 2], false);
        at_ = *end;
        return {};
      }
    }
    if (begin < text_.size()) return error(open, "this raw block has no {% endraw %}");
    return {};
  }

  Result<void> lex_comment(size_t open) {
    for (size_t i = at_; i < text_.size(); ++i) {
      if (text_[i] != '#' && text_[i] != '-' && text_[i] != '+') continue;
      if (const auto end = match_end(i, "#}")) {
        at_ = *end;
        return {};
      }
    }
    if (at_ < text_.size()) return error(open, "this comment has no end, expected \"#}\"");
    return {};
  }

  Result<void> lex_code(bool variable) {
    std::string closers;
    while (at_ < text_.size()) {
      if (closers.empty()) {
        if (const auto end = variable ? match_variable_end(at_) : match_block_end(at_)) {
          add(variable ? TokenKind::variable_end : TokenKind::block_end, at_, "");
          at_ = *end;
          return {};
        }
      }
      const size_t after_space = skip_space(at_);
      if (after_space > at_) {
        at_ = after_space;
      } else if (is_digit(text_[at_])) {
        lex_number();
      } else if (text_[at_] == '\'' || text_[at_] == '"') {
        KEYE_TRY_VOID(lex_string());
      } else {
        KEYE_TRY(const bool name, lex_name());
        if (!name) KEYE_TRY_VOID(lex_symbol(closers));
      }
    }
    return {};
  }

  void lex_number() {
    size_t end = skip_digits(text_, at_, 10, false);
    TokenKind kind = TokenKind::integer;
    if (at_ == 0 || text_[at_ - 1] != '.') {
      size_t fraction = end;
      if (has(end, ".")) fraction = skip_digits(text_, end + 1, 10, false);
      if (fraction <= end + 1) fraction = end;
      size_t exponent = fraction;
      if (has(fraction, "e") || has(fraction, "E")) {
        const size_t digits = fraction + (has(fraction + 1, "+") || has(fraction + 1, "-") ? 2 : 1);
        exponent = skip_digits(text_, digits, 10, false);
        if (exponent == digits) exponent = fraction;
      }
      if (exponent > end) {
        kind = TokenKind::real;
        end = exponent;
      }
    }
    if (kind == TokenKind::integer && text_[at_] == '0') {
      const char letter = at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : ' ';
      const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 1;
      // Only zeros may follow a leading zero; other digits start a number of their own.
      end = skip_digits(text_, at_ + (base > 1 ? 2 : 0), base, true);
      if (base > 1 && end == at_ + 2) end = at_ + 1;
    }
    std::string digits(text_.substr(at_, end - at_));
    std::erase(digits, '_');
    add(kind, at_, std::move(digits));
    at_ = end;
  }

  Result<bool> lex_name() {
    size_t end = at_;
    bool valid = true;
    while (end < text_.size()) {
      const unicode::Decoded here = unicode::decode(text_, end);
      const bool part = unicode::is_identifier_part(here.code);
      if (!part && !unicode::is_alnum(here.code)) break;
      valid = valid && part && (end > at_ || unicode::is_identifier_start(here.code));
      end += here.bytes;
    }
    if (end == at_) return false;
    if (!valid) return error(at_, fmt::format("\"{}\" is not a name", text_.substr(at_, end - at_)));
    add(TokenKind::name, at_, std::string(text_.substr(at_, end - at_)));
    at_ = end;
    return true;
  }

  Result<void> lex_symbol(std::string& closers) {
    static constexpr std::string_view kSymbols[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto* symbol = std::ranges::find_if(kSymbols, [&](std::string_view s) { return has(at_, s); });
    if (symbol == std::end(kSymbols)) {
      const size_t bytes = unicode::decode(text_, at_).bytes;
      return error(at_, fmt::format("unexpected character \"{}\"", text_.substr(at_, bytes)));
    }
    const char first = symbol->front();
    if (first == '(' || first == '[' || first == '{') {
      closers.push_back(first == '(' ? ')' : first == '[' ? ']' : '}');
    } else if (first == ')' || first == ']' || first == '}') {
      if (closers.empty()) return error(at_, fmt::format("unexpected '{}'", first));
      if (closers.back() != first)
        return error(at_, fmt::format("unexpected '{}', expected '{}'", first, closers.back()));
      closers.pop_back();
    }
    add(TokenKind::symbol, at_, std::string(*symbol));
    at_ += symbol->size();
    return {};
  }

  Result<void> lex_string() {
    const char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return error(at_, "this string has no closing quote");
    KEYE_TRY(std::string decoded, unescape(at_ + 1, end));
    add(TokenKind::string, at_, std::move(decoded));
    at_ = end + 1;
    return {};
  }

  /// The string between `begin` and `end` with Python's escapes replaced.
  Result<std::string> unescape(size_t begin, size_t end) {
    std::string out;
    for (size_t i = begin; i < end;) {
      if (text_[i] != '\\') {
        out.push_back(text_[i++]);
        continue;
      }
      const size_t escape = i;
      const unicode::Decoded next = unicode::decode(text_, i + 1);
      i += 1 + next.bytes;
      static constexpr std::string_view kLetters = "\\'\"abfnrtv\n";
      static constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
      if (next.code >= 0x80) {
        // jinja2 escapes such a character on its way, and the backslash before it then escapes that escape.
        out += '\\' + fmt::format(fmt::runtime(next.code <= 0xFF     ? "x{:02x}"
                                               : next.code <= 0xFFFF ? "u{:04x}"
                                                                     : "U{:08x}"),
                                  static_cast<uint32_t>(next.code));
      } else if (const size_t letter = kLetters.find(static_cast<char>(next.code)); letter != std::string_view::npos) {
        if (letter < kMeanings.size()) out.push_back(kMeanings[letter]);
      } else if (next.code >= '0' && next.code <= '7') {
        char32_t code = next.code - '0';
        for (int more = 0; more < 2 && i < end && text_[i] >= '0' && text_[i] <= '7'; ++more)
          code = code * 8 + static_cast<char32_t>(text_[i++] - '0');
        unicode::encode(code, out);
      } else if (next.code == 'x' || next.code == 'u' || next.code == 'U') {
        const size_t digits = next.code == 'x' ? 2 : next.code == 'u' ? 4 : 8;
        const size_t stop = skip_digits(text_.substr(0, std::min(end, i + digits)), i, 16, false);
        const std::string hex(text_.substr(i, digits));
        if (stop != i + digits || hex.find('_') != std::string::npos)
          return error(escape, fmt::format("\\{} needs {} hexadecimal digits", static_cast<char>(next.code), digits));
        const unsigned long code = std::stoul(hex, nullptr, 16);
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
          return error(escape, fmt::format("\\{}{} is not a character", static_cast<char>(next.code), hex));
        unicode::encode(static_cast<char32_t>(code), out);
        i = stop;
      } else if (next.code == 'N') {
        const size_t close = text_.find('}', i);
        const char32_t code =
            has(i, "{") && close < end ? unicode::by_name(std::string(text_.substr(i + 1, close - i - 1))) : 0;
        if (code == 0) return error(escape, "\\N needs the name of a character in braces");
        unicode::encode(code, out);
        i = close + 1;
      } else {
        out.push_back('\\');
        out.push_back(static_cast<char>(next.code));
      }
    }
    return out;
  }

  std::string_view where_;
  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  size_t counted_ = 0;
  Position here_;
  std::vector<Token> tokens_;
};

}  // namespace

Error syntax_error(std::string_view where, Position at, std::string message) {
  return Error{ErrorCode::invalid_argument, std::move(message), fmt::format("{}:{}:{}", where, at.line, at.column)};
}

Result<std::vector<Token>> tokenize(std::string_view source, std::string_view where) {
  if (source.size() > kSourceBytesMax) {
    return make_error(ErrorCode::too_large, where, "the template has {} bytes, more than {}", source.size(),
                      kSourceBytesMax);
  }
  if (size_t bad = 0; !unicode::is_utf8(source, &bad)) {
    return make_error(ErrorCode::invalid_argument, where, "the template is not UTF-8 at byte {}", bad);
  }
  return Lexer(source, where).run();
}

}  // namespace keye::text
