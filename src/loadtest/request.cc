#include "loadtest/request.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "base/json.h"
#include "loadtest/plan.h"

namespace keye::loadtest {
namespace {

constexpr uint64_t kPrefixStream = uint64_t{1} << 42;
constexpr size_t kPictureBytesMax = size_t{256} << 20;

constexpr std::string_view kWords[] = {
    "the",     "of",       "and",     "to",      "in",      "is",      "for",    "that",     "with",    "on",
    "as",      "was",      "at",      "by",      "from",    "are",     "this",   "have",     "or",      "not",
    "but",     "had",      "his",     "they",    "she",     "which",   "you",    "one",      "we",      "all",
    "her",     "would",    "there",   "their",   "will",    "when",    "who",    "him",      "been",    "has",
    "more",    "if",       "no",      "out",     "do",      "so",      "can",    "what",     "up",      "said",
    "about",   "other",    "into",    "than",    "its",     "time",    "only",   "could",    "new",     "them",
    "man",     "some",     "these",   "then",    "two",     "first",   "may",    "any",      "like",    "now",
    "my",      "such",     "make",    "over",    "our",     "even",    "most",   "me",       "state",   "after",
    "also",    "made",     "many",    "did",     "must",    "before",  "back",   "see",      "through", "way",
    "where",   "get",      "much",    "go",      "well",    "your",    "know",   "should",   "down",    "work",
    "year",    "because",  "come",    "people",  "just",    "say",     "each",   "those",    "take",    "day",
    "good",    "how",      "long",    "own",     "too",     "little",  "use",    "very",     "great",   "still",
    "men",     "here",     "life",    "both",    "between", "old",     "under",  "last",     "never",   "place",
    "same",    "another",  "think",   "house",   "while",   "high",    "right",  "might",    "came",    "off",
    "find",    "states",   "since",   "used",    "give",    "against", "three",  "himself",  "look",    "few",
    "general", "hand",     "school",  "part",    "small",   "family",  "home",   "during",   "number",  "again",
    "mother",  "around",   "thought", "went",    "without", "however", "word",   "kind",     "does",    "got",
    "public",  "united",   "point",   "end",     "become",  "head",    "once",   "course",   "fact",    "upon",
    "need",    "system",   "set",     "every",   "war",     "put",     "form",   "water",    "took",    "program",
    "present", "hands",    "almost",  "large",   "seem",    "order",   "group",  "city",     "light",   "name",
    "side",    "possible", "among",   "open",    "social",  "case",    "power",  "today",    "far",     "night",
    "want",    "next",     "better",  "keep",    "world",   "paper",   "money",  "door",     "road",    "green",
    "river",   "music",    "winter",  "summer",  "garden",  "table",   "white",  "black",    "short",   "early",
    "late",    "young",    "face",    "morning", "letter",  "field",   "answer", "question", "machine", "train",
    "stone",   "space",    "clear",   "north",   "south",   "east",    "west",   "voice",    "room",    "page",
    "read",    "write",    "speak",   "turn",    "stand",   "walk"};
static_assert(std::size(kWords) == 256, "eight bits pick a word");

/// Text as a JSON string; bytes that are not UTF-8 are replaced.
std::string json_string(std::string_view text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct Magic {
  std::string_view start;
  std::string_view type;
};
constexpr Magic kMagics[] = {
    {"\x89PNG\r\n", "image/png"}, {"\xFF\xD8\xFF", "image/jpeg"}, {"RIFF", "image/webp"}, {"GIF8", "image/gif"},
    {"BM", "image/bmp"},          {"II*", "image/tiff"},          {"MM", "image/tiff"}};

}  // namespace

std::string prompt_text(const Config& config, uint64_t number) {
  Random prefix(config.seed, kPrefixStream);
  Random own(config.seed, number);
  std::string text;
  for (int64_t i = 0; i < config.prompt_words; ++i) {
    Random& random = i < config.shared_prefix ? prefix : own;
    if (i > 0) text += ' ';
    text += kWords[random.next() >> 56];
  }
  return text;
}

Body make_body(const Config& config, std::string_view text, std::string_view picture_uri) {
  Body body{.head = "{", .picture = {}, .tail = {}};
  if (!config.model.empty()) body.head += fmt::format(R"("model":{},)", json_string(config.model));
  if (config.endpoint == Endpoint::completions) {
    body.head += fmt::format(R"("prompt":{})", json_string(text));
  } else if (picture_uri.empty()) {
    body.head += fmt::format(R"("messages":[{{"role":"user","content":{}}}])", json_string(text));
  } else {
    body.head += fmt::format(R"("messages":[{{"role":"user","content":[{{"type":"text","text":{}}},)"
                             R"({{"type":"image_url","image_url":{{"url":")",
                             json_string(text));
    body.picture = picture_uri;
    body.tail += R"("}}]}])";
  }
  body.tail += fmt::format(R"(,"max_tokens":{},"temperature":{})", config.generate, config.temperature);
  if (config.ignore_eos) body.tail += R"(,"ignore_eos":true)";
  body.tail += R"(,"stream":true,"stream_options":{"include_usage":true}})";
  return body;
}

std::string http_head(const Config& config, const Url& url, std::string_view path, size_t body_bytes) {
  std::string head = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: keye-bench\r\n",
                                 body_bytes > 0 ? "POST" : "GET", api_path(url, path), url.authority());
  head += body_bytes > 0 ? "Accept: text/event-stream\r\n" : "Accept: application/json\r\n";
  if (!config.api_key.empty()) head += fmt::format("Authorization: Bearer {}\r\n", config.api_key);
  if (body_bytes > 0) head += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body_bytes);
  return head + "\r\n";
}

Result<std::string> picture_uri(const Path& path) {
  KEYE_TRY(const std::string bytes, read_file(path, kPictureBytesMax));
  const auto* const magic = std::find_if(std::begin(kMagics), std::end(kMagics),
                                         [&](const Magic& candidate) { return bytes.starts_with(candidate.start); });
  if (magic == std::end(kMagics)) {
    return make_error(ErrorCode::unsupported, path.string(), "no PNG, JPEG, WebP, GIF, BMP or TIFF file");
  }
  return fmt::format("data:{};base64,{}", magic->type, encode_base64(bytes));
}

std::string encode_base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) group = group << 8 | (i < count ? static_cast<uint8_t>(bytes[at + i]) : 0U);
    for (size_t i = 0; i < 4; ++i) text += i <= count ? kAlphabet[(group >> (18 - 6 * i)) & 63] : '=';
  }
  return text;
}

}  // namespace keye::loadtest
