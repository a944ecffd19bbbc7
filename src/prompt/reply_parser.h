// A model's reply, split while it streams into what it thought and what it answers.
//
// A reply is blocks, one after another, and then plain text:
//   <analysis>A</analysis><think>R</think><answer>C</answer>   has the reasoning "A\nR" and the content "C",
//   <think>R</think>C                                          "R" and "C",
//   R</think>C                                                 the same, if the prompt ended with <think>.
// Only tags count, at these places only:
//   - An opening tag counts at the start of the reply and after a block of reasoning, behind at most
//     ReplyParser::kGapMax bytes of ASCII white space, which are dropped with it. Anything else there begins the
//     content, white space and all, and the rest of the reply is content, whatever tags it has.
//   - In a block, the first closing tag ends it. At the start of a block of reasoning its opening tag once more is
//     dropped (models repeat the one that the prompt ends with); elsewhere it is text.
//   - After a block of content, everything is content.
//   - A closing tag without its block is text: reasoning is recognised before it is shown, or not at all.
//   - A reply cut inside a block, or inside a tag, ends what it was in; a part of a tag is text.
// Nothing else is dropped, white space neither: "<think>\n\n</think>\n\nC" has the reasoning "\n\n" and the content
// "\n\nC", as with the Qwen3 parsers of SGLang and vLLM. One thing is added: a line break between two blocks'
// reasoning.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/marked.h"

namespace keye::prompt {

/// What a checkpoint's replies look like.
enum class ReplyStyle : uint8_t {
  plain,       // text
  think,       // <think>, then text: Qwen3, DeepSeek
  auto_think,  // <analysis>, <think>, <answer>, each of which may be missing: Keye-VL 8B preview and 1.5
};

/// Both tags begin with '<' and have no other.
struct ReplyBlock {
  std::string open;
  std::string close;
  bool reasoning = true;  // or else content
};

struct ReplyFormat {
  std::vector<ReplyBlock> blocks;
  std::optional<size_t> starts_inside;  // the block that the prompt has opened
};

/// The format of replies to a rendered prompt. A reply starts inside a block of reasoning if the prompt ends with its
/// opening tag, with white space behind or not, and the engine wrote all of that; a plain style then becomes `think`.
ReplyFormat reply_format(ReplyStyle style, const text::Marked& prompt);

struct ReplyPieces {
  std::string reasoning;
  std::string content;

  bool operator==(const ReplyPieces&) const = default;
};

/// Splits a reply that comes in chunks; the pieces joined are the same for all chunks. Takes any bytes; a character
/// that comes in one chunk leaves in one piece. To continue a message, push its content first and leave out those
/// pieces.
class ReplyParser {
 public:
  static constexpr size_t kGapMax = 8;

  explicit ReplyParser(ReplyFormat format);

  /// Appends to `out` what is certain. Held back are only bytes that may still be a tag and the white space before it:
  /// never more than kGapMax and the longest tag.
  void push(std::string_view text, ReplyPieces& out);
  /// The reply is over: appends what was held back. Nothing may be pushed afterwards.
  void finish(ReplyPieces& out);

 private:
  enum class Place : uint8_t { between_blocks, block_start, block, rest };
  enum class Match : uint8_t { none, part, opening, closing };

  Match match(std::string_view tag);
  size_t take_text(std::string_view text, ReplyPieces& out);
  void take_character(char character, ReplyPieces& out);
  void open_block(size_t block);
  void close_block(ReplyPieces& out);
  void release(ReplyPieces& out);
  void emit(std::string_view text, ReplyPieces& out);

  ReplyFormat format_;
  Place place_ = Place::between_blocks;
  size_t block_ = 0;       // the open block; while between blocks, the one whose opening tag was matched
  std::string held_;       // white space, then perhaps the beginning of a tag
  size_t gap_ = 0;         // how much of held_ is white space
  bool reasoned_ = false;  // some reasoning was given out,
  bool separate_ = false;  // and more of it will belong to another block
};

/// A whole reply at once.
ReplyPieces split_reply(const ReplyFormat& format, std::string_view reply);

}  // namespace keye::prompt
