// The regular expressions that tokenizers are published with, read as Oniguruma (the library behind them) reads them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/code_points.h"

namespace keye::text {

/// No pattern may be longer, which bounds the work of taking it apart; published ones are far below.
inline constexpr size_t kRegexBytesMax = 4096;

/// A pattern taken apart: what surrounds the character classes, and the classes. Element i of `syntax` comes before
/// class `atoms[i]`; `syntax` has one element more than `atoms`. The syntax is in the common core of all Perl-like
/// engines: groups, lookaround, alternation and quantifiers.
struct RegexParts {
  std::vector<std::string> syntax;
  std::vector<int> atoms;          // indices into `sets`, one for every character of a string that the pattern consumes
  std::vector<CodePointSet> sets;  // all different
};

/// Takes a pattern apart. What Oniguruma gives a meaning of its own, or what depends on more than the one character
/// (anchors, back references, \b, atomic groups, case-insensitive letters beyond ASCII), is refused by name.
/// Errors: unsupported, too_large, corrupt_data (not a regular expression); with the byte in the message.
Result<RegexParts> parse_regex(std::string_view pattern, std::string_view where);

}  // namespace keye::text
