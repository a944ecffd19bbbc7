#include "text/regex_syntax.h"

#include <algorithm>
#include <optional>

#include "text/unicode.h"

namespace keye::text {
namespace {

constexpr size_t kGroupDepthMax = 64;
constexpr int kRepeatMax = 1000;

bool is_ascii_letter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// What matches an ASCII character when case does not matter: the Kelvin sign is a k, the long s an s.
CodePointSet fold(char32_t c) {
  CodePointSet set(c, c);
  if (!is_ascii_letter(c)) return set;
  const char32_t lower = c | 0x20;
  set |= CodePointSet(lower, lower) | CodePointSet(lower ^ 0x20, lower ^ 0x20);
  if (lower == 'k') set |= CodePointSet(0x212A, 0x212A);
  if (lower == 's') set |= CodePointSet(0x17F, 0x17F);
  return set;
}

/// Two letters that one character may stand for when case does not matter (ligatures and the sharp s).
bool is_folded_pair(char32_t a, char32_t b) {
  const std::u32string_view pairs[] = {U"ss", U"st", U"ff", U"fi", U"fl"};
  const char32_t pair[] = {a | 0x20, b | 0x20};
  return std::any_of(std::begin(pairs), std::end(pairs),
                     [&](std::u32string_view known) { return known == std::u32string_view(pair, 2); });
}

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {
    parts_.syntax.emplace_back();
  }

  Result<RegexParts> parse() && {
    if (!is_utf8(pattern_)) return corrupt("not valid UTF-8");
    while (!at_end()) KEYE_TRY_VOID(parse_item());
    if (!ignore_case_.empty()) return corrupt("a group is not closed");
    return std::move(parts_);
  }

 private:
  template <class... Args>
  Error unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::unsupported, where_, "regular expression \"{}\", byte {}: {} is not supported",
                      pattern_, at_, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  Error corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::corrupt_data, where_, "regular expression \"{}\", byte {}: {}", pattern_, at_,
                      fmt::format(format, std::forward<Args>(args)...));
  }

  bool at_end() const { return at_ == pattern_.size(); }
  bool ahead(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!ahead(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t take_code_point() {
    const Utf8Step step = utf8_step(pattern_.substr(at_));
    at_ += step.bytes;
    return step.code_point;
  }
  bool ignores_case() const { return !ignore_case_.empty() && ignore_case_.back(); }

  void put_syntax(std::string_view text) { parts_.syntax.back() += text; }
  void put_set(const CodePointSet& set) {
    const auto same = std::find(parts_.sets.begin(), parts_.sets.end(), set);
    parts_.atoms.push_back(static_cast<int>(same - parts_.sets.begin()));
    if (same == parts_.sets.end()) parts_.sets.push_back(set);
    parts_.syntax.emplace_back();
    literal_ = 0;
    can_repeat_ = true;
    after_group_ = false;
  }

  Result<void> parse_item() {
    switch (pattern_[at_]) {
      case '(':
        return open_group();
      case ')':
        if (ignore_case_.empty()) return corrupt("nothing is open to be closed");
        can_repeat_ = !lookaround_.back();
        after_group_ = true;
        ignore_case_.pop_back();
        lookaround_.pop_back();
        ++at_;
        put_syntax(")");
        return {};
      case '|':
        ++at_;
        put_syntax("|");
        can_repeat_ = false;
        literal_ = 0;
        return {};
      case '*':
      case '+':
      case '?':
      case '{':
        return parse_repeat();
      case '^':
      case '$':
        return unsupported("the anchor {}", pattern_[at_]);
      case '.':
        ++at_;
        put_set(~CodePointSet('\n', '\n'));
        return {};
      case '[': {
        KEYE_TRY(const CodePointSet set, parse_class());
        put_set(set);
        return {};
      }
      case '\\': {
        KEYE_TRY(const Escape escape, parse_escape());
        if (escape.set && ignores_case()) return unsupported("a class where case is ignored");
        return escape.set ? put_set(*escape.set), Result<void>() : put_literal(escape.character);
      }
      default:
        return put_literal(take_code_point());
    }
  }

  Result<void> put_literal(char32_t c) {
    if (!ignores_case()) {
      put_set(CodePointSet(c, c));
      return {};
    }
    if (c >= 0x80) return unsupported("a character beyond ASCII where case is ignored");
    const char32_t before = literal_;
    if (before != 0 && is_folded_pair(before, c)) {
      return unsupported("\"{}{}\" where case is ignored (a single character can stand for it)",
                         static_cast<char>(before), static_cast<char>(c));
    }
    put_set(fold(c));
    literal_ = c;
    return {};
  }

  Result<void> open_group() {
    if (ignore_case_.size() == kGroupDepthMax) return unsupported("nesting deeper than {} groups", kGroupDepthMax);
    bool ignore = ignores_case();
    bool lookaround = false;
    std::string_view opened = "(?:";  // what a capturing group is for, a back reference, is refused
    if (take("(?:")) {
    } else if (take("(?i:")) {
      ignore = true;
    } else if (take("(?-i:")) {
      ignore = false;
    } else if (ahead("(?=") || ahead("(?!")) {
      opened = pattern_.substr(at_, 3);
      at_ += 3;
      lookaround = true;
    } else if (ahead("(?<=") || ahead("(?<!")) {
      opened = pattern_.substr(at_, 4);
      at_ += 4;
      lookaround = true;
    } else if (ahead("(?") || ahead("(*")) {
      return unsupported("a group that begins with \"{}\"", first_characters(4));
    } else {
      ++at_;
    }
    ignore_case_.push_back(ignore);
    lookaround_.push_back(lookaround);
    put_syntax(opened);
    can_repeat_ = false;
    return {};
  }

  /// For messages: a few characters from here, not cut inside one.
  std::string_view first_characters(int count) const {
    size_t end = at_;
    for (; count > 0 && end < pattern_.size(); --count) end += utf8_step(pattern_.substr(end)).bytes;
    return pattern_.substr(at_, end - at_);
  }

  Result<void> parse_repeat() {
    if (!can_repeat_)
      return unsupported("\"{}\" after nothing, a lookaround or another repetition", first_characters(1));
    const bool counted = pattern_[at_] == '{';
    if (counted) {
      KEYE_TRY_VOID(parse_counts());
    } else {
      put_syntax(pattern_.substr(at_++, 1));
    }
    // After a count, Oniguruma takes both signs for repetitions of their own, other engines do not.
    if (ahead("?") || ahead("+")) {
      if (counted) return unsupported("\"{}\" after a counted repetition", first_characters(1));
      // Like (?>...), which Oniguruma does not always match where its definition says.
      if (ahead("+") && after_group_) return unsupported("a group repeated without backtracking");
      put_syntax(pattern_.substr(at_++, 1));
    }
    can_repeat_ = false;
    literal_ = 0;
    return {};
  }

  Result<void> parse_counts() {
    ++at_;
    const std::optional<int> low = take_number();
    const bool comma = take(",");
    const std::optional<int> high = comma ? take_number() : low;
    if (!take("}") || (!low && !high)) return unsupported("a brace that is no count (write \\{{)");
    if (low.value_or(0) > kRepeatMax || high.value_or(0) > kRepeatMax) {
      return unsupported("a count over {}", kRepeatMax);
    }
    if (high && *high < low.value_or(0)) return unsupported("a count from high to low");
    put_syntax(comma ? fmt::format("{{{},{}}}", low.value_or(0), high ? std::to_string(*high) : "")
                     : fmt::format("{{{}}}", *low));
    return {};
  }

  std::optional<int> take_number() {
    std::optional<int> number;
    while (!at_end() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
      number = std::min(number.value_or(0) * 10 + (pattern_[at_++] - '0'), kRepeatMax + 1);
    }
    return number;
  }

  struct Escape {
    std::optional<CodePointSet> set;
    char32_t character = 0;  // when there is no set
  };

  /// From the backslash on; the same inside and outside of brackets.
  Result<Escape> parse_escape() {
    ++at_;
    if (at_end()) return corrupt("a backslash at the end");
    const char32_t c = take_code_point();
    switch (c) {
      case 's':
        return Escape{CodePointSet::white_space(), 0};
      case 'S':
        return Escape{~CodePointSet::white_space(), 0};
      case 'd':
        return Escape{CodePointSet::category("Nd"), 0};
      case 'D':
        return Escape{~*CodePointSet::category("Nd"), 0};
      case 'p':
      case 'P':
        return parse_property(c == 'P');
      case 't':
        return Escape{{}, '\t'};
      case 'n':
        return Escape{{}, '\n'};
      case 'v':
        return Escape{{}, '\v'};
      case 'f':
        return Escape{{}, '\f'};
      case 'r':
        return Escape{{}, '\r'};
      case 'a':
        return Escape{{}, '\a'};
      case 'e':
        return Escape{{}, 0x1B};
      case 'x':
        return take("{") ? parse_hex(1, 8, "}") : parse_hex(2, 2, "");
      case 'u':
        return parse_hex(4, 4, "");
      default:
        break;
    }
    if (is_ascii_letter(c) || (c >= '0' && c <= '9') || c >= 0x80) {
      at_ -= 1;
      return unsupported("\\{}", first_characters(1));
    }
    return Escape{{}, c};
  }

  Result<Escape> parse_hex(int least, int most, std::string_view end) {
    char32_t value = 0;
    int digits = 0;
    while (digits < most && !at_end()) {
      const char c = pattern_[at_];
      const bool letter = is_ascii_letter(static_cast<unsigned char>(c)) && (c | 0x20) <= 'f';
      if (!letter && (c < '0' || c > '9')) break;
      value = value << 4 | static_cast<char32_t>(letter ? (c | 0x20) - 'a' + 10 : c - '0');
      ++digits;
      ++at_;
    }
    if (digits < least || !take(end)) return unsupported("a hexadecimal escape of {} digits", digits);
    if (value > kCodePointMax || (value >= 0xD800 && value < 0xE000)) return corrupt("no character has this number");
    // Two digits from 80 on stand for a byte, not for a character.
    if (most == 2 && value >= 0x80) return unsupported("\\x{:X}", static_cast<uint32_t>(value));
    return Escape{{}, value};
  }

  Result<Escape> parse_property(bool negated) {
    if (!take("{")) return unsupported("\\p without braces");
    if (take("^")) negated = !negated;
    const size_t end = std::min(pattern_.find('}', at_), pattern_.size());
    const std::string_view name = pattern_.substr(at_, end - at_);
    const std::optional<CodePointSet> set = CodePointSet::category(name);
    if (!set) return unsupported("the property \"{}\" (only general categories such as L or Lu are)", name);
    at_ = end;
    if (!take("}")) return corrupt("a property is not closed");
    return Escape{negated ? ~*set : *set, 0};
  }

  Result<CodePointSet> parse_class() {
    ++at_;
    const bool negated = take("^");
    if (negated && ignores_case()) return unsupported("a negated class where case is ignored");
    CodePointSet set;
    for (bool first = true; !take("]"); first = false) {
      if (at_end()) return corrupt("a class is not closed");
      if (first && ahead("]")) return unsupported("a class that is empty or begins with ]");
      if (ahead("[")) return unsupported("a class inside a class (write \\[)");
      if (ahead("&&")) return unsupported("an intersection of classes");
      KEYE_TRY(const CodePointSet item, parse_class_item(first));
      set |= item;
    }
    return negated ? ~set : set;
  }

  Result<CodePointSet> parse_class_item(bool first) {
    if (ahead("-") && !first && !ahead("-]")) return unsupported("a dash that makes no range (write \\-)");
    KEYE_TRY(const Escape low, parse_class_end());
    const bool range = ahead("-") && !ahead("-]") && !(first && low.character == '-');
    if (low.set) {
      if (range) return unsupported("a range that begins with a class");
      if (ignores_case()) return unsupported("a class where case is ignored");
      return *low.set;
    }
    char32_t last = low.character;
    if (range) {
      ++at_;
      if (ahead("[") || ahead("&&")) return unsupported("a range that ends with {}", first_characters(1));
      KEYE_TRY(const Escape high, parse_class_end());
      if (high.set) return unsupported("a range that ends with a class");
      last = high.character;
      if (last < low.character) return corrupt("a range from high to low");
    }
    if (!ignores_case()) return CodePointSet(low.character, last);
    if (last >= 0x80) return unsupported("a character beyond ASCII where case is ignored");
    CodePointSet folded;
    for (char32_t c = low.character; c <= last; ++c) folded |= fold(c);
    return folded;
  }

  Result<Escape> parse_class_end() {
    if (at_end()) return corrupt("a class is not closed");
    if (ahead("\\")) return parse_escape();
    return Escape{{}, take_code_point()};
  }

  std::string_view pattern_;
  std::string_view where_;
  size_t at_ = 0;
  RegexParts parts_;
  std::vector<bool> ignore_case_;  // of the open groups
  std::vector<bool> lookaround_;
  bool can_repeat_ = false;
  bool after_group_ = false;
  char32_t literal_ = 0;  // the character that comes just before, if it was one where case is ignored
};

}  // namespace

Result<RegexParts> parse_regex(std::string_view pattern, std::string_view where) {
  if (pattern.size() > kRegexBytesMax) {
    return make_error(ErrorCode::too_large, where, "a regular expression of {} bytes, at most {} are supported",
                      pattern.size(), kRegexBytesMax);
  }
  return Parser(pattern, where).parse();
}

}  // namespace keye::text
