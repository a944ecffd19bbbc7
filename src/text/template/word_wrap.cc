#include "text/template/word_wrap.h"

#include <algorithm>
#include <string_view>

#include "text/template/characters.h"

namespace keye::text {
namespace {

class Wrapper {
 public:
  Wrapper(const Marked& text, const WrapStyle& style) : text_(text), style_(style) {
    for (size_t at = 0; at < text.size();) {
      const unicode::Decoded here = unicode::decode(text.text, at);
      codes_.push_back(here.code);
      starts_.push_back(at);
      at += here.bytes;
    }
    starts_.push_back(text.size());
  }

  std::vector<Marked> run() {
    for (size_t at = 0; at < codes_.size();) {
      const size_t end = chunk_end(at);
      chunks_.push_back({at, end});
      at = end;
    }
    std::ranges::reverse(chunks_);
    std::vector<Marked> lines;
    while (!chunks_.empty()) {
      if (!lines.empty() && blank(chunks_.back())) chunks_.pop_back();
      std::vector<Chunk> line = take_line();
      if (!line.empty() && blank(line.back())) line.pop_back();
      // The pieces of a line follow each other, so that its ends say it all.
      if (!line.empty())
        lines.push_back(
            text_.slice(starts_[line.front().begin], starts_[line.back().end] - starts_[line.front().begin]));
    }
    return lines;
  }

 private:
  struct Chunk {
    size_t begin;
    size_t end;
    size_t size() const { return end - begin; }
  };

  bool space(size_t at) const { return codes_[at] == ' ' || (codes_[at] >= 9 && codes_[at] <= 13); }
  bool word(size_t at) const { return at < codes_.size() && (codes_[at] == '_' || unicode::is_alnum(codes_[at])); }
  bool letter(size_t at) const { return word(at) && !unicode::is_decimal(codes_[at]); }
  bool dash(size_t at) const { return at < codes_.size() && codes_[at] == '-'; }
  bool word_or_punctuation(size_t at) const {
    return word(at) || (codes_[at] < 0x80 &&
                        std::string_view("!\"'&.,?").find(static_cast<char>(codes_[at])) != std::string_view::npos);
  }
  bool blank(const Chunk& chunk) const {
    return std::all_of(codes_.begin() + static_cast<ptrdiff_t>(chunk.begin),
                       codes_.begin() + static_cast<ptrdiff_t>(chunk.end), unicode::is_space);
  }

  /// Where a dash of two or more strokes that starts at `at` between words ends, or `at`.
  size_t em_dash_end(size_t at) const {
    if (at == 0 || !word_or_punctuation(at - 1)) return at;
    size_t end = at;
    while (dash(end)) ++end;
    return end - at >= 2 && word(end) ? end : at;
  }

  /// Whether a word may be broken after the hyphen at `at`: between letters, at least two on a side.
  bool breaks_after(size_t at) const {
    if (!dash(at)) return false;
    const bool before =
        (at >= 2 && letter(at - 1) && letter(at - 2)) || (at >= 3 && letter(at - 1) && dash(at - 2) && letter(at - 3));
    return before && letter(at + 1) && (letter(at + 2) || (dash(at + 2) && letter(at + 3)));
  }

  size_t chunk_end(size_t at) const {
    size_t end = at;
    if (space(at)) {
      while (end < codes_.size() && space(end)) ++end;
      return end;
    }
    if (style_.break_on_hyphens) {
      if (const size_t dashes = em_dash_end(at); dashes > at) return dashes;
    }
    for (end = at + 1; end < codes_.size() && !space(end); ++end) {
      if (!style_.break_on_hyphens) continue;
      if (breaks_after(end)) return end + 1;
      if (em_dash_end(end) > end) return end;
    }
    return end;
  }

  std::vector<Chunk> take_line() {
    const auto width = static_cast<size_t>(style_.width);
    std::vector<Chunk> line;
    size_t length = 0;
    while (!chunks_.empty() && length + chunks_.back().size() <= width) {
      line.push_back(chunks_.back());
      length += chunks_.back().size();
      chunks_.pop_back();
    }
    if (chunks_.empty() || chunks_.back().size() <= width) return line;
    // A word that fits on no line.
    Chunk& chunk = chunks_.back();
    if (style_.break_long_words) {
      size_t taken = width - length;
      if (style_.break_on_hyphens && chunk.size() > taken) taken = after_last_hyphen(chunk, taken);
      line.push_back({chunk.begin, chunk.begin + taken});
      chunk.begin += taken;
    } else if (line.empty()) {
      line.push_back(chunk);
      chunks_.pop_back();
    }
    return line;
  }

  /// `taken`, or less if there is a hyphen before it that follows something else.
  size_t after_last_hyphen(const Chunk& chunk, size_t taken) const {
    for (size_t i = taken; i-- > 1;) {
      if (!dash(chunk.begin + i)) continue;
      for (size_t j = 0; j < i; ++j) {
        if (!dash(chunk.begin + j)) return i + 1;
      }
      break;
    }
    return taken;
  }

  const Marked& text_;
  const WrapStyle& style_;
  std::vector<char32_t> codes_;
  std::vector<size_t> starts_;  // of each character, in bytes, and the end
  std::vector<Chunk> chunks_;   // in reverse
};

}  // namespace

std::vector<Marked> word_wrap(const Marked& paragraph, const WrapStyle& style) {
  return Wrapper(paragraph, style).run();
}

}  // namespace keye::text
