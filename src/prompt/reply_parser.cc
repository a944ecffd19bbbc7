#include "prompt/reply_parser.h"

#include <utility>

#include "base/check.h"

namespace keye::prompt {
namespace {

constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";

bool is_white_space(char character) { return kWhiteSpace.find(character) != std::string_view::npos; }

/// A mismatch in a tag can then only be followed by a tag that begins at the mismatch: nothing is looked at twice.
bool is_tag(std::string_view tag) { return tag.starts_with('<') && tag.rfind('<') == 0; }

std::vector<ReplyBlock> blocks_of(ReplyStyle style) {
  switch (style) {
    case ReplyStyle::plain:
      return {};
    case ReplyStyle::think:
      return {{"<think>", "</think>"}};
    case ReplyStyle::auto_think:
      return {{"<analysis>", "</analysis>"}, {"<think>", "</think>"}, {"<answer>", "</answer>", false}};
  }
  return {};
}

/// The block of reasoning whose opening tag the engine wrote last.
std::optional<size_t> opened_block(const std::vector<ReplyBlock>& blocks, const text::Marked& prompt) {
  size_t own = prompt.size();
  while (own > 0 && prompt.origin_at(own - 1) == text::kOriginEngine) --own;
  const std::string_view tail = std::string_view(prompt.text).substr(own);
  const std::string_view words = tail.substr(0, tail.find_last_not_of(kWhiteSpace) + 1);
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].reasoning && words.ends_with(blocks[i].open)) return i;
  }
  return std::nullopt;
}

}  // namespace

ReplyFormat reply_format(ReplyStyle style, const text::Marked& prompt) {
  ReplyFormat format{blocks_of(style), {}};
  format.starts_inside = opened_block(format.blocks, prompt);
  if (style != ReplyStyle::plain) return format;
  ReplyFormat thinking = reply_format(ReplyStyle::think, prompt);
  return thinking.starts_inside ? thinking : format;
}

ReplyParser::ReplyParser(ReplyFormat format) : format_(std::move(format)) {
  for (const ReplyBlock& block : format_.blocks) {
    KEYE_CHECK(is_tag(block.open) && is_tag(block.close), "{} {} are no tags", block.open, block.close);
  }
  if (format_.starts_inside) {
    KEYE_CHECK(*format_.starts_inside < format_.blocks.size(), "no block {}", *format_.starts_inside);
    open_block(*format_.starts_inside);
  } else if (format_.blocks.empty()) {
    place_ = Place::rest;
  }
}

void ReplyParser::push(std::string_view text, ReplyPieces& out) {
  for (size_t at = 0; at < text.size();) {
    at += take_text(text.substr(at), out);
    if (at < text.size()) take_character(text[at++], out);
  }
}

void ReplyParser::finish(ReplyPieces& out) { release(out); }

/// Text that no tag can be in, as a whole; returns its size.
size_t ReplyParser::take_text(std::string_view text, ReplyPieces& out) {
  if (!held_.empty() || place_ == Place::between_blocks || place_ == Place::block_start) return 0;
  const std::string_view plain = place_ == Place::rest ? text : text.substr(0, text.find('<'));
  emit(plain, out);
  return plain.size();
}

void ReplyParser::take_character(char character, ReplyPieces& out) {
  const bool in_tag = held_.size() > gap_;
  if (!in_tag && is_white_space(character) && held_.size() < kGapMax) {  // take_text() took it in all other places
    held_ += character;
    ++gap_;
    return;
  }
  held_ += character;
  switch (match(std::string_view(held_).substr(gap_))) {
    case Match::part:
      return;
    case Match::opening:
      return open_block(block_);
    case Match::closing:
      return close_block(out);
    case Match::none:
      break;
  }
  held_.pop_back();
  release(out);
  if (character == '<' && place_ != Place::rest) {
    held_ += character;
  } else {
    emit({&character, 1}, out);
  }
}

/// Whether `tag` is one of those that count in this place, or the beginning of one.
ReplyParser::Match ReplyParser::match(std::string_view tag) {
  if (place_ == Place::rest) return Match::none;
  const auto begins = [&](const std::string& whole) { return std::string_view(whole).starts_with(tag); };
  bool part = false;
  if (place_ != Place::between_blocks) {
    const ReplyBlock& block = format_.blocks[block_];
    if (tag == block.close) return Match::closing;
    if (place_ == Place::block_start && tag == block.open) return Match::opening;
    part = begins(block.close) || (place_ == Place::block_start && begins(block.open));
  } else {
    for (size_t i = 0; i < format_.blocks.size(); ++i) {
      if (tag == format_.blocks[i].open) {
        block_ = i;
        return Match::opening;
      }
      part = part || begins(format_.blocks[i].open);
    }
  }
  return part ? Match::part : Match::none;
}

void ReplyParser::open_block(size_t block) {
  held_.clear();
  gap_ = 0;
  block_ = block;
  place_ = format_.blocks[block].reasoning ? Place::block_start : Place::block;
  separate_ = reasoned_;
}

void ReplyParser::close_block(ReplyPieces& out) {
  held_.resize(gap_);  // white space only at the block's start, and part of it
  release(out);
  place_ = format_.blocks[block_].reasoning ? Place::between_blocks : Place::rest;
}

/// What was held back is text, and so is what follows.
void ReplyParser::release(ReplyPieces& out) {
  if (place_ == Place::between_blocks) place_ = Place::rest;
  if (place_ == Place::block_start) place_ = Place::block;
  emit(held_, out);
  held_.clear();
  gap_ = 0;
}

void ReplyParser::emit(std::string_view text, ReplyPieces& out) {
  if (text.empty()) return;
  if (place_ == Place::rest || !format_.blocks[block_].reasoning) {
    out.content += text;
    return;
  }
  if (separate_) out.reasoning += '\n';
  separate_ = false;
  reasoned_ = true;
  out.reasoning += text;
}

ReplyPieces split_reply(const ReplyFormat& format, std::string_view reply) {
  ReplyParser parser(format);
  ReplyPieces pieces;
  parser.push(reply, pieces);
  parser.finish(pieces);
  return pieces;
}

}  // namespace keye::prompt
