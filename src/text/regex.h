// Regular expressions over code points. PCRE2 is used here only, as an engine of bytes: a pattern distinguishes few
// kinds of characters, so each code point is first replaced by the number of its kind, by tables of ours. What \p{L} is
// thus depends on neither the engine's version nor its speed with Unicode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/code_points.h"

namespace keye::text {

struct RegexParts;

class Regex {
 public:
  /// Where a pattern matched: code points [first, last).
  struct Match {
    size_t first;
    size_t last;
  };

  /// What a search needs to write to; one for each thread, usable with every Regex.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  /// In the dialect of text/regex_syntax.h. Errors: unsupported, corrupt_data, too_large.
  static Result<Regex> compile(std::string_view pattern, std::string_view where);
  /// Matches exactly these characters. `text` is valid UTF-8. Errors: too_large, unsupported.
  static Result<Regex> literal(std::string_view text, std::string_view where);
  /// Matches one character of the set.
  static Regex one_of(const CodePointSet& set);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  /// The kind of every code point: what find() searches in.
  void classify(std::span<const char32_t> code_points, std::vector<uint8_t>& kinds) const;

  /// The first match that begins at `from` or later. A search that takes more steps or memory than any tokenizer's
  /// pattern needs on any text (ten million, 64 MiB) ends as if nothing matched.
  std::optional<Match> find(std::span<const uint8_t> kinds, size_t from, Scratch& scratch) const;

 private:
  struct Program;
  explicit Regex(std::unique_ptr<Program> program);
  static Result<Regex> build(const RegexParts& parts, std::string_view pattern, std::string_view where);

  std::unique_ptr<Program> program_;
};

/// All matches in turn, as the tokenizers library goes through them: an empty match right behind the match before it
/// does not count.
class RegexMatches {
 public:
  RegexMatches(const Regex& regex, std::span<const uint8_t> kinds, Regex::Scratch& scratch)
      : regex_(regex), kinds_(kinds), scratch_(scratch) {}

  std::optional<Regex::Match> next();

 private:
  const Regex& regex_;
  std::span<const uint8_t> kinds_;
  Regex::Scratch& scratch_;
  size_t from_ = 0;
  std::optional<size_t> last_end_;
};

}  // namespace keye::text
