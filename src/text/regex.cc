#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <map>
#include <string>

#include "base/check.h"
#include "text/regex_syntax.h"
#include "text/unicode.h"

namespace keye::text {
namespace {

constexpr uint32_t kSteps = 10'000'000;
constexpr uint32_t kHeapKib = 64 << 10;

template <class T, void (*kFree)(T*)>
struct Freer {
  void operator()(T* value) const { kFree(value); }
};
template <class T, void (*kFree)(T*)>
using Owned = std::unique_ptr<T, Freer<T, kFree>>;

/// The number of the kind of every code point, in pages of 256 of which equal ones are stored once.
class KindTable {
 public:
  /// Two code points are of one kind if every set holds both or neither. Nothing if there are more than 256 kinds.
  /// members[s] are the kinds that set s is made of.
  static std::optional<KindTable> make(std::span<const CodePointSet> sets, std::vector<std::vector<uint8_t>>& members);

  uint8_t of(char32_t c) const { return pages_[static_cast<size_t>(page_of_[c >> 8]) << 8 | (c & 255)]; }

 private:
  std::vector<uint16_t> page_of_;
  std::vector<uint8_t> pages_;
};

std::optional<KindTable> KindTable::make(std::span<const CodePointSet> sets,
                                         std::vector<std::vector<uint8_t>>& members) {
  // Between two neighbouring borders of any ranges, all code points are of one kind.
  std::vector<char32_t> borders = {0};
  for (const CodePointSet& set : sets) {
    for (const CodePointSet::Range& range : set.ranges()) {
      borders.push_back(range.first);
      borders.push_back(range.last + 1);
    }
  }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());

  std::map<std::vector<bool>, uint8_t> kinds;
  std::vector<uint8_t> kind_of(kCodePointMax + 1);
  members.assign(sets.size(), {});
  for (size_t i = 0; i < borders.size() && borders[i] <= kCodePointMax; ++i) {
    std::vector<bool> held(sets.size());
    for (size_t s = 0; s < sets.size(); ++s) held[s] = sets[s].contains(borders[i]);
    if (kinds.size() == 256 && !kinds.contains(held)) return std::nullopt;
    const auto [kind, added] = kinds.try_emplace(held, static_cast<uint8_t>(kinds.size()));
    for (size_t s = 0; added && s < sets.size(); ++s) {
      if (held[s]) members[s].push_back(kind->second);
    }
    const size_t end = i + 1 < borders.size() ? borders[i + 1] : kCodePointMax + 1;
    std::fill(kind_of.begin() + borders[i], kind_of.begin() + static_cast<ptrdiff_t>(end), kind->second);
  }

  KindTable table;
  std::map<std::string_view, uint16_t> known;
  for (size_t page = 0; page <= kCodePointMax >> 8; ++page) {
    const std::string_view bytes(reinterpret_cast<const char*>(kind_of.data()) + page * 256, 256);
    const auto [at, added] = known.try_emplace(bytes, static_cast<uint16_t>(known.size()));
    if (added) table.pages_.insert(table.pages_.end(), bytes.begin(), bytes.end());
    table.page_of_.push_back(at->second);
  }
  return table;
}

std::string class_of(const std::vector<uint8_t>& kinds) {
  if (kinds.empty()) return "(?!)";
  std::string text = "[";
  for (const uint8_t kind : kinds) text += fmt::format("\\x{:02x}", kind);
  return text + "]";
}

}  // namespace

struct Regex::Program {
  KindTable kinds;
  Owned<pcre2_code, pcre2_code_free> code;
};

struct Regex::Scratch::State {
  Owned<pcre2_match_data, pcre2_match_data_free> match{pcre2_match_data_create(1, nullptr)};
  Owned<pcre2_match_context, pcre2_match_context_free> context{pcre2_match_context_create(nullptr)};
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {
  KEYE_CHECK(state_->match && state_->context, "out of memory");
  pcre2_set_match_limit(state_->context.get(), kSteps);
  pcre2_set_heap_limit(state_->context.get(), kHeapKib);
}
Regex::Scratch::~Scratch() = default;

Regex::Regex(std::unique_ptr<Program> program) : program_(std::move(program)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::compile(std::string_view pattern, std::string_view where) {
  KEYE_TRY(const RegexParts parts, parse_regex(pattern, where));
  return build(parts, pattern, where);
}

Result<Regex> Regex::literal(std::string_view text, std::string_view where) {
  if (text.size() > kRegexBytesMax) {
    return make_error(ErrorCode::too_large, where, "a pattern of {} bytes, at most {} are supported", text.size(),
                      kRegexBytesMax);
  }
  CodePoints points;
  points.assign(text);
  RegexParts parts;
  for (const char32_t c : points.values) {
    const CodePointSet set(c, c);
    const auto same = std::find(parts.sets.begin(), parts.sets.end(), set);
    parts.atoms.push_back(static_cast<int>(same - parts.sets.begin()));
    if (same == parts.sets.end()) parts.sets.push_back(set);
  }
  parts.syntax.resize(parts.atoms.size() + 1);
  return build(parts, text, where);
}

Regex Regex::one_of(const CodePointSet& set) {
  return build(RegexParts{.syntax = {"", ""}, .atoms = {0}, .sets = {set}}, "(a set)", "").value();
}

Result<Regex> Regex::build(const RegexParts& parts, std::string_view pattern, std::string_view where) {
  std::vector<std::vector<uint8_t>> members;
  std::optional<KindTable> kinds = KindTable::make(parts.sets, members);
  if (!kinds) {
    return make_error(ErrorCode::unsupported, where,
                      "regular expression \"{}\" distinguishes over 256 kinds of characters", pattern);
  }
  std::string translated = parts.syntax[0];
  for (size_t i = 0; i < parts.atoms.size(); ++i) {
    translated += class_of(members[static_cast<size_t>(parts.atoms[i])]) + parts.syntax[i + 1];
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto program = std::make_unique<Program>();
  program->kinds = *std::move(kinds);
  program->code.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), 0, &error, &offset, nullptr));
  if (!program->code) {
    char reason[256] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof reason);
    return make_error(ErrorCode::unsupported, where, "regular expression \"{}\": {}", pattern, reason);
  }
  // Where the system forbids code made at run time, the search is interpreted instead.
  pcre2_jit_compile(program->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(program));
}

void Regex::classify(std::span<const char32_t> code_points, std::vector<uint8_t>& kinds) const {
  kinds.resize(code_points.size());
  for (size_t i = 0; i < code_points.size(); ++i) kinds[i] = program_->kinds.of(code_points[i]);
}

std::optional<Regex::Match> Regex::find(std::span<const uint8_t> kinds, size_t from, Scratch& scratch) const {
  pcre2_match_data* const match = scratch.state_->match.get();
  const auto search = [&](uint32_t options) {
    return pcre2_match(program_->code.get(), kinds.data(), kinds.size(), from, options, match,
                       scratch.state_->context.get());
  };
  int found = search(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = search(PCRE2_NO_JIT);
  if (found < 0) return std::nullopt;
  const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(match);
  return Match{ends[0], ends[1]};
}

std::optional<Regex::Match> RegexMatches::next() {
  while (from_ <= kinds_.size()) {
    const std::optional<Regex::Match> match = regex_.find(kinds_, from_, scratch_);
    if (!match) return std::nullopt;
    if (match->first == match->last && last_end_ == match->last) {
      ++from_;
      continue;
    }
    from_ = match->last;
    last_end_ = match->last;
    return match;
  }
  return std::nullopt;
}

}  // namespace keye::text
