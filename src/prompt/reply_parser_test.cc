#include "prompt/reply_parser.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "text/unicode.h"

namespace keye::prompt {

void PrintTo(const ReplyPieces& pieces, std::ostream* out) {
  *out << "reasoning " << testing::PrintToString(pieces.reasoning) << ", content "
       << testing::PrintToString(pieces.content);
}

namespace {

struct Case {
  std::string name;
  ReplyFormat format;
  std::string reply;
  ReplyPieces expected;
};

ReplyFormat format_of(const std::string& style, const std::string& inside = {}) {
  const ReplyStyle known = style == "plain"   ? ReplyStyle::plain
                           : style == "think" ? ReplyStyle::think
                                              : ReplyStyle::auto_think;
  return reply_format(known, inside.empty() ? "assistant\n" : "assistant\n<" + inside + ">\n");
}

const std::vector<Case>& golden() {
  static const std::vector<Case> cases = [] {
    std::vector<Case> read;
    const Result<Json> json = read_json("tests/golden/replies/replies.json");
    EXPECT_TRUE(json) << json.error().to_string();
    for (const Json& one : (*json)["cases"]) {
      const std::string inside = one["inside"].is_null() ? "" : one["inside"].get<std::string>();
      read.push_back({one["name"], format_of(one["style"], inside), one["reply"], {one["reasoning"], one["content"]}});
    }
    return read;
  }();
  return cases;
}

/// The rules of reply_parser.h on a reply that is all there.
class Reference {
 public:
  Reference(const ReplyFormat& format, std::string_view reply) : format_(format), rest_(reply) {
    std::optional<size_t> block = format.starts_inside;
    while (!block || take_block(format_.blocks[*block])) {
      block = next_block();
      if (!block) break;
    }
    pieces_.content += rest_;
  }
  const ReplyPieces& pieces() const { return pieces_; }

 private:
  bool skip_tag(const std::string& tag) {
    const size_t gap = std::min(rest_.find_first_not_of(" \t\n\v\f\r"), rest_.size());
    if (gap > ReplyParser::kGapMax || !rest_.substr(gap).starts_with(tag)) return false;
    rest_.remove_prefix(gap + tag.size());
    return true;
  }
  std::optional<size_t> next_block() {
    for (size_t i = 0; i < format_.blocks.size(); ++i) {
      if (skip_tag(format_.blocks[i].open)) return i;
    }
    return std::nullopt;
  }
  /// Whether another block may follow.
  bool take_block(const ReplyBlock& block) {
    while (block.reasoning && skip_tag(block.open)) {
    }
    const size_t end = rest_.find(block.close);
    const std::string_view body = rest_.substr(0, end);
    if (!block.reasoning) {
      pieces_.content += body;
    } else if (!body.empty()) {
      if (!pieces_.reasoning.empty()) pieces_.reasoning += '\n';
      pieces_.reasoning += body;
    }
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + block.close.size());
    return block.reasoning;
  }

  const ReplyFormat& format_;
  std::string_view rest_;
  ReplyPieces pieces_;
};

/// What comes out when the reply is cut before each of these bytes.
ReplyPieces in_chunks(const ReplyFormat& format, std::string_view reply, const std::vector<size_t>& cuts) {
  ReplyParser parser(format);
  ReplyPieces pieces;
  size_t done = 0;
  for (const size_t cut : cuts) {
    parser.push(reply.substr(done, cut - done), pieces);
    done = cut;
  }
  parser.push(reply.substr(done), pieces);
  parser.finish(pieces);
  return pieces;
}

TEST(ReplyParser, SplitsAsTheReference) {
  EXPECT_EQ(golden().size(), 220U);
  for (const Case& one : golden()) {
    SCOPED_TRACE(one.name);
    EXPECT_EQ(split_reply(one.format, one.reply), one.expected);
    EXPECT_EQ(Reference(one.format, one.reply).pieces(), one.expected);
  }
}

TEST(ReplyParser, EveryBeginningOfAReplySplitsAsTheReference) {
  for (const Case& one : golden()) {
    SCOPED_TRACE(one.name);
    for (size_t size = 0; size < one.reply.size(); ++size) {
      const std::string_view part = std::string_view(one.reply).substr(0, size);
      EXPECT_EQ(split_reply(one.format, part), Reference(one.format, part).pieces()) << part;
    }
  }
}

TEST(ReplyParser, ChunksMakeNoDifference) {
  for (const Case& one : golden()) {
    SCOPED_TRACE(one.name);
    const size_t size = one.reply.size();
    for (size_t first = 0; first <= size; ++first) {
      EXPECT_EQ(in_chunks(one.format, one.reply, {first}), one.expected) << "cut before byte " << first;
      for (size_t second = first; size <= 100 && second <= size; ++second) {
        EXPECT_EQ(in_chunks(one.format, one.reply, {first, second}), one.expected)
            << "cut before bytes " << first << " and " << second;
      }
    }
    std::vector<size_t> everywhere(size);
    for (size_t i = 0; i < size; ++i) everywhere[i] = i;
    EXPECT_EQ(in_chunks(one.format, one.reply, everywhere), one.expected);
  }
}

TEST(ReplyParser, GivesWholeCharactersAndHoldsBackLittle) {
  for (const Case& one : golden()) {
    SCOPED_TRACE(one.name);
    size_t held_max = 0;
    for (const ReplyBlock& block : one.format.blocks)
      held_max = std::max({held_max, block.open.size(), block.close.size()});
    held_max += held_max == 0 ? 0 : ReplyParser::kGapMax;
    text::CodePoints characters;
    characters.assign(one.reply);
    ReplyParser parser(one.format);
    ReplyPieces joined;
    for (size_t i = 0; i < characters.values.size(); ++i) {
      const size_t end = characters.starts[i + 1];
      ReplyPieces pieces;
      parser.push(std::string_view(one.reply).substr(characters.starts[i], end - characters.starts[i]), pieces);
      EXPECT_TRUE(text::is_utf8(pieces.reasoning) && text::is_utf8(pieces.content));
      joined.reasoning += pieces.reasoning;
      joined.content += pieces.content;
      // All that is out now is a beginning of what comes out if the reply ends here.
      ReplyPieces ended = joined;
      ReplyParser(parser).finish(ended);
      EXPECT_EQ(ended, Reference(one.format, std::string_view(one.reply).substr(0, end)).pieces());
      EXPECT_LE(ended.reasoning.size() + ended.content.size(),
                joined.reasoning.size() + joined.content.size() + held_max);
    }
    parser.finish(joined);
    EXPECT_EQ(joined, one.expected);
  }
}

TEST(ReplyParser, RandomRepliesSplitAsTheReference) {
  const std::vector<std::string> words = {
      "<think>", "</think>", "<analysis>", "</analysis>", "<answer>", "</answer>", "<",    "</", "think>", "<thi",
      "</an",    "\n",       "   ",        "\t",          "a",        "题",        "🙂", ">",  "nk>",    "        "};
  uint32_t state = 1;
  const auto random = [&](size_t below) { return (state = state * 1664525 + 1013904223) / 65536 % below; };
  for (int round = 0; round < 20'000; ++round) {
    const bool inside = random(2) == 0;
    const ReplyFormat format = format_of(random(2) == 0 ? "think" : "auto_think", inside ? "think" : "");
    std::string reply;
    std::vector<size_t> cuts;
    for (size_t words_left = random(16); words_left > 0; --words_left) {
      reply += words[random(words.size())];
      if (random(2) == 0) cuts.push_back(reply.size() - random(2));
    }
    const ReplyPieces expected = Reference(format, reply).pieces();
    ASSERT_EQ(split_reply(format, reply), expected) << reply;
    ASSERT_EQ(in_chunks(format, reply, cuts), expected) << reply;
  }
}

TEST(ReplyParser, ShowsReasoningAndContentAtOnce) {
  ReplyParser parser(format_of("auto_think"));
  const auto push = [&](std::string_view text) {
    ReplyPieces pieces;
    parser.push(text, pieces);
    return pieces;
  };
  EXPECT_EQ(push("\n<"), ReplyPieces());
  EXPECT_EQ(push("think>R"), (ReplyPieces{"R", ""}));
  EXPECT_EQ(push(" 1 <"), (ReplyPieces{" 1 ", ""}));
  EXPECT_EQ(push("/think"), ReplyPieces());
  EXPECT_EQ(push("> <answer>4"), (ReplyPieces{"", "4"}));
  EXPECT_EQ(push(" </a"), (ReplyPieces{"", " "}));
  EXPECT_EQ(push("b"), (ReplyPieces{"", "</ab"}));
  EXPECT_EQ(push("</answer>\n<"), (ReplyPieces{"", "\n<"}));
}

TEST(ReplyParser, ContinuesAMessageInItsState) {
  const auto continued = [](const std::string& style, std::string_view message, std::string_view reply) {
    ReplyParser parser(format_of(style));
    ReplyPieces before;
    parser.push(message, before);
    ReplyPieces pieces;
    parser.push(reply, pieces);
    parser.finish(pieces);
    return pieces;
  };
  EXPECT_EQ(continued("think", "The answer is", " <think>4"), (ReplyPieces{"", " <think>4"}));
  EXPECT_EQ(continued("think", "<think>\nWell", ", 4.</think>4"), (ReplyPieces{", 4.", "4"}));
  EXPECT_EQ(continued("think", "<think>\n\n</think>", "\n\n4"), (ReplyPieces{"", "\n\n4"}));
  EXPECT_EQ(continued("auto_think", "<think>R</think><answer>", "4</answer>"), (ReplyPieces{"", "4"}));
}

TEST(ReplyFormat, StartsInsideWhatTheEngineOpened) {
  const auto inside = [](ReplyStyle style, const text::Marked& prompt) {
    return reply_format(style, prompt).starts_inside;
  };
  EXPECT_EQ(inside(ReplyStyle::think, "<|im_start|>assistant\n"), std::nullopt);
  EXPECT_EQ(inside(ReplyStyle::think, "<|im_start|>assistant\n<think>\n"), 0U);
  EXPECT_EQ(inside(ReplyStyle::think, "<|Assistant|><think>"), 0U);
  EXPECT_EQ(inside(ReplyStyle::think, "<|Assistant|></think>"), std::nullopt);
  EXPECT_EQ(inside(ReplyStyle::think, "<think>\n\n</think>\n\n"), std::nullopt);
  EXPECT_EQ(inside(ReplyStyle::think, ""), std::nullopt);
  EXPECT_EQ(inside(ReplyStyle::auto_think, "<analysis> "), 0U);
  EXPECT_EQ(inside(ReplyStyle::auto_think, "<think>\n\n"), 1U);
  EXPECT_EQ(inside(ReplyStyle::auto_think, "<answer>"), std::nullopt);
}

TEST(ReplyFormat, TagsOfUsersAndEarlierAnswersOpenNothing) {
  for (const char origin : {text::kOriginUser, text::kOriginAssistant}) {
    text::Marked prompt("assistant\n");
    prompt.append("<think>", origin);
    EXPECT_FALSE(reply_format(ReplyStyle::think, prompt).starts_inside);
    prompt.append("\n");
    EXPECT_FALSE(reply_format(ReplyStyle::think, prompt).starts_inside);
    text::Marked half("assistant\n");
    half.append("<thi", origin);
    half.append("nk>");
    EXPECT_FALSE(reply_format(ReplyStyle::think, half).starts_inside);
    text::Marked own("Hello", origin);
    own.append("<think>\n");
    EXPECT_TRUE(reply_format(ReplyStyle::think, own).starts_inside);
  }
}

TEST(ReplyFormat, APromptThatOpensAThoughtMakesAPlainStyleThink) {
  EXPECT_TRUE(reply_format(ReplyStyle::plain, "assistant\n").blocks.empty());
  EXPECT_EQ(split_reply(reply_format(ReplyStyle::plain, "assistant\n<think>\n"), "R</think>C"),
            (ReplyPieces{"R", "C"}));
}

TEST(ReplyFormat, TakesOnlyTags) {
  EXPECT_DEATH(ReplyParser({{{"think:", "</think>"}}, {}}), "are no tags");
  EXPECT_DEATH(ReplyParser({{{"<think>", "</thi<nk>"}}, {}}), "are no tags");
  EXPECT_DEATH(ReplyParser({{{"<think>", "</think>"}}, 1}), "no block 1");
}

}  // namespace
}  // namespace keye::prompt
