// Any reply in any chunks: what comes out is what the whole reply gives, nothing that was shown is taken back, and
// little is held back.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "prompt/reply_parser.h"

namespace {

using keye::prompt::ReplyPieces;

/// Bytes 0 to 19 stand for what tags are made of; all others are themselves.
constexpr std::array<std::string_view, 20> kWords = {
    "<think>",    "</think>", "<analysis>", "</analysis>", "<answer>", "</answer>", "<", "</",  "think>",   "<thi",
    "</analysis", "\n",       "\n\n",       "      ",      "\t",       "\r\n",      "a", "nk>", "<answer ", "题"};

constexpr size_t kHeldMax = keye::prompt::ReplyParser::kGapMax + std::string_view("</analysis>").size();

}  // namespace

/// The first byte chooses the format, the second the chunks' sizes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keye::prompt;
  if (size < 2) return 0;
  constexpr std::array<ReplyStyle, 3> kStyles = {ReplyStyle::plain, ReplyStyle::think, ReplyStyle::auto_think};
  const ReplyFormat format = reply_format(kStyles[data[0] % 3], (data[0] & 128) != 0 ? "<think>\n" : "assistant\n");
  std::string reply;
  for (size_t i = 2; i < size; ++i) {
    reply += data[i] < kWords.size() ? kWords[data[i]] : std::string_view(reinterpret_cast<const char*>(&data[i]), 1);
  }
  const ReplyPieces whole = split_reply(format, reply);

  ReplyParser parser(format);
  ReplyPieces joined;
  uint32_t state = data[1];
  for (size_t done = 0; done < reply.size();) {
    state = state * 1664525 + 1013904223;
    const size_t count = 1 + state / 65536 % (data[1] + 1U);
    parser.push(std::string_view(reply).substr(done, count), joined);
    done = std::min(done + count, reply.size());
    if (reply.size() > 500) continue;  // the checks after every chunk take the square of the time
    KEYE_CHECK(whole.reasoning.starts_with(joined.reasoning) && whole.content.starts_with(joined.content));
    ReplyPieces ended = joined;
    ReplyParser(parser).finish(ended);
    KEYE_CHECK(ended == split_reply(format, std::string_view(reply).substr(0, done)));
    KEYE_CHECK(ended.reasoning.size() + ended.content.size() <=
               joined.reasoning.size() + joined.content.size() + kHeldMax);
  }
  parser.finish(joined);
  KEYE_CHECK(joined == whole);
  return 0;
}
