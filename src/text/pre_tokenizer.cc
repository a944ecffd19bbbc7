#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/json_fields.h"

namespace keye::text {
namespace {

/// How ByteLevel with "use_regex" splits: the pattern of GPT-2.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Each takes some 100 KB and a pass over the text; published tokenizers have up to four.
constexpr size_t kCutsMax = 32;

Result<SplitBehavior> behavior_named(std::string_view name, std::string_view where) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {{
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous},
  }};
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  return make_error(ErrorCode::unsupported, where, "behavior \"{}\" is not supported", name);
}

/// Joins neighbours as the behaviour says. Pieces are in order and cover the text, or, for merged_with_next, in
/// reverse.
template <class Pieces, class Extend>
void join(SplitBehavior behavior, Pieces& pieces, Extend extend) {
  size_t kept = 0;
  bool previous = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto piece = pieces[i];
    const bool joins = behavior == SplitBehavior::contiguous ? piece.is_match == previous : piece.is_match && !previous;
    previous = piece.is_match;
    if (joins && kept > 0) {
      extend(pieces[kept - 1], piece);
    } else {
      pieces[kept++] = piece;
    }
  }
  pieces.resize(kept);
}

}  // namespace

Result<PreTokenizer> PreTokenizer::parse(const Json& pre_tokenizer, const std::string& where) {
  PreTokenizer parsed;
  if (!pre_tokenizer.is_null()) KEYE_TRY_VOID(parsed.add(pre_tokenizer, where));
  if (!parsed.complete_) {
    return make_error(ErrorCode::unsupported, where, "no ByteLevel: only byte-level tokenizers are supported");
  }
  return parsed;
}

Result<void> PreTokenizer::add(const Json& part, const std::string& where) {
  KEYE_TRY(const std::string type, type_of(part, where));
  if (complete_ && type != "Sequence") {
    return make_error(ErrorCode::unsupported, where, "\"{}\" after ByteLevel is not supported", type);
  }
  if (cuts_.size() == kCutsMax) {
    return make_error(ErrorCode::too_large, where, "more than {} splits are not supported", kCutsMax);
  }
  if (type == "Split") return add_split(part, where);
  if (type == "Digits") return add_digits(part, where);
  if (type == "ByteLevel") return add_byte_level(part, where);
  if (type != "Sequence") {
    return make_error(ErrorCode::unsupported, where,
                      "pre-tokenizer \"{}\" is not supported, only Sequence, Split, Digits and ByteLevel", type);
  }
  KEYE_TRY(const JsonFields fields, JsonFields::open(part, where, {"type", "pretokenizers"}));
  KEYE_TRY(const Json* const parts, fields.array("pretokenizers"));
  for (size_t i = 0; i < parts->size(); ++i) {
    KEYE_TRY_VOID(add((*parts)[i], fmt::format("{}.pretokenizers[{}]", where, i)));
  }
  return {};
}

Result<void> PreTokenizer::add_split(const Json& part, const std::string& where) {
  KEYE_TRY(const JsonFields fields, JsonFields::open(part, where, {"type", "pattern", "behavior", "invert"}));
  KEYE_TRY(const std::string behavior_name, fields.string("behavior"));
  KEYE_TRY(const SplitBehavior behavior, behavior_named(behavior_name, fields.where("behavior")));
  KEYE_TRY(const bool invert, fields.boolean("invert"));
  KEYE_TRY(const Json* const pattern, fields.need("pattern"));
  KEYE_TRY(const JsonFields choice, JsonFields::open(*pattern, fields.where("pattern"), {"Regex", "String"}));
  const bool is_regex = choice.find("Regex") != nullptr;
  KEYE_TRY(const std::string text, choice.string(is_regex ? "Regex" : "String"));
  if (pattern->size() != 1) {
    return make_error(ErrorCode::corrupt_data, choice.where(), "expected one of Regex and String, found both");
  }
  if (text.empty()) return make_error(ErrorCode::unsupported, choice.where(), "an empty pattern is not supported");
  KEYE_TRY(Regex regex, is_regex ? Regex::compile(text, choice.where()) : Regex::literal(text, choice.where()));
  cuts_.push_back({std::move(regex), behavior, invert});
  return {};
}

Result<void> PreTokenizer::add_digits(const Json& part, const std::string& where) {
  KEYE_TRY(const JsonFields fields, JsonFields::open(part, where, {"type", "individual_digits"}));
  KEYE_TRY(const bool individual, fields.boolean("individual_digits"));
  cuts_.push_back({Regex::one_of(CodePointSet::numeric()),
                   individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false});
  return {};
}

Result<void> PreTokenizer::add_byte_level(const Json& part, const std::string& where) {
  // trim_offsets is about offsets into the text, which are not computed here.
  KEYE_TRY(const JsonFields fields,
           JsonFields::open(part, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  KEYE_TRY(add_prefix_space_, fields.boolean("add_prefix_space"));
  KEYE_TRY(const bool use_regex, fields.boolean("use_regex", true));
  if (use_regex) {
    KEYE_TRY(Regex regex, Regex::compile(kByteLevelPattern, where));
    (add_prefix_space_ ? prefixed_cuts_ : cuts_).push_back({std::move(regex), SplitBehavior::isolated, false});
  }
  complete_ = true;
  return {};
}

void PreTokenizer::split(std::string_view text, Scratch& scratch, std::vector<std::string_view>& words) const {
  if (!add_prefix_space_) return split_by(cuts_, text, scratch, words);
  std::vector<std::string_view> pieces;
  split_by(cuts_, text, scratch, pieces);
  for (const std::string_view piece : pieces) {
    if (piece.starts_with(' ')) {
      split_by(prefixed_cuts_, piece, scratch, words);
    } else {
      split_by(prefixed_cuts_, scratch.prefixed_.emplace_back(" ").append(piece), scratch, words);
    }
  }
}

void PreTokenizer::split_by(std::span<const Cut> cuts, std::string_view text, Scratch& scratch,
                            std::vector<std::string_view>& words) {
  if (text.empty()) return;
  if (cuts.empty()) return words.push_back(text);
  scratch.points_.assign(text);
  scratch.pieces_ = {{0, static_cast<uint32_t>(scratch.points_.values.size()), false}};
  for (const Cut& cut : cuts) cut_pieces(cut, scratch);
  const std::vector<uint32_t>& starts = scratch.points_.starts;
  for (const Scratch::Piece& piece : scratch.pieces_) {
    words.push_back(text.substr(starts[piece.first], starts[piece.last] - starts[piece.first]));
  }
}

void PreTokenizer::cut_pieces(const Cut& cut, Scratch& scratch) {
  using Piece = Scratch::Piece;
  cut.regex.classify(scratch.points_.values, scratch.kinds_);
  std::vector<Piece>& pieces = scratch.cut_;
  std::vector<Piece> all;
  all.reserve(scratch.pieces_.size());
  for (const Piece& whole : scratch.pieces_) {
    // Matches and what lies between them. Each piece is searched as a text of its own, with nothing around it.
    pieces.clear();
    const auto put = [&](size_t first, size_t last, bool is_match) {
      pieces.push_back({static_cast<uint32_t>(whole.first + first), static_cast<uint32_t>(whole.first + last),
                        is_match != cut.invert});
    };
    const std::span kinds = std::span(scratch.kinds_).subspan(whole.first, whole.last - whole.first);
    RegexMatches matches(cut.regex, kinds, scratch.regex_);
    size_t end = 0;
    while (const std::optional<Regex::Match> match = matches.next()) {
      if (match->first != end) put(end, match->first, false);
      put(match->first, match->last, true);
      end = match->last;
    }
    if (end != kinds.size()) put(end, kinds.size(), false);

    switch (cut.behavior) {
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::removed:
        std::erase_if(pieces, [](const Piece& piece) { return piece.is_match; });
        break;
      case SplitBehavior::contiguous:
      case SplitBehavior::merged_with_previous:
        join(cut.behavior, pieces, [](Piece& kept, const Piece& next) { kept.last = next.last; });
        break;
      case SplitBehavior::merged_with_next:
        std::reverse(pieces.begin(), pieces.end());
        join(cut.behavior, pieces, [](Piece& kept, const Piece& next) { kept.first = next.first; });
        std::reverse(pieces.begin(), pieces.end());
        break;
    }
    std::copy_if(pieces.begin(), pieces.end(), std::back_inserter(all),
                 [](const Piece& piece) { return piece.first != piece.last; });
  }
  scratch.pieces_ = std::move(all);
}

}  // namespace keye::text
