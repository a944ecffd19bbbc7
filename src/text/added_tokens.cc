#include "text/added_tokens.h"

#include <algorithm>

#include "text/code_points.h"
#include "text/json_fields.h"
#include "text/marked.h"
#include "text/unicode.h"

namespace keye::text {
namespace {

/// Longer ones would only make a search through a hostile text slow.
constexpr size_t kAddedTokenBytesMax = 1024;

char32_t first_code_point(std::string_view text) { return utf8_step(text).code_point; }

/// Where the last character of a text begins.
size_t last_start(std::string_view text) {
  size_t at = text.size() - 1;
  while ((text[at] & 0xC0) == 0x80) --at;
  return at;
}

bool touches_word(std::string_view before, std::string_view after) {
  const CodePointSet& word = CodePointSet::word();
  return (!before.empty() && word.contains(first_code_point(before.substr(last_start(before))))) ||
         (!after.empty() && word.contains(first_code_point(after)));
}

size_t without_space_at_end(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = last_start(text.substr(0, end));
    if (!CodePointSet::white_space().contains(first_code_point(text.substr(start)))) break;
    end = start;
  }
  return end;
}

size_t space_at_start(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = utf8_step(text.substr(bytes));
    if (!CodePointSet::white_space().contains(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

}  // namespace

bool AddedTokenTrie::insert(std::string_view text, int token, bool special) {
  begins_[static_cast<uint8_t>(text.front())] = true;
  uint32_t at = 0;
  for (const char byte : text) {
    auto& next = nodes_[at].next;
    const auto place = std::lower_bound(next.begin(), next.end(), std::pair(byte, uint32_t{0}));
    if (place != next.end() && place->first == byte) {
      at = place->second;
    } else {
      at = static_cast<uint32_t>(nodes_.size());
      next.insert(place, {byte, at});
      nodes_.emplace_back();
    }
  }
  if (nodes_[at].token != kNone) return false;
  nodes_[at].token = token;
  nodes_[at].special = special;
  return true;
}

const AddedTokenTrie::Node* AddedTokenTrie::follow(const Node& node, char byte) const {
  const auto place = std::lower_bound(node.next.begin(), node.next.end(), std::pair(byte, uint32_t{0}));
  return place != node.next.end() && place->first == byte ? &nodes_[place->second] : nullptr;
}

AddedTokenTrie::Found AddedTokenTrie::longest(std::string_view text, std::string_view origin) const {
  Found found;
  bool special_allowed = true;
  const Node* node = &nodes_[0];
  for (size_t i = 0; i < text.size(); ++i) {
    if (!origin.empty() && origin[i] != kOriginEngine) {
      if (origin[i] != kOriginAssistant) break;
      special_allowed = false;
    }
    node = follow(*node, text[i]);
    if (node == nullptr) break;
    if (node->token != kNone && (special_allowed || !node->special)) found = {node->token, i + 1};
  }
  return found;
}

Result<AddedTokens> AddedTokens::parse(const Json& added_tokens, const Vocabulary& vocabulary,
                                       const Normalizer& normalizer, const std::string& where) {
  AddedTokens parsed;
  parsed.next_id_ = vocabulary.size();
  if (added_tokens.is_null()) return parsed;
  if (!added_tokens.is_array()) {
    return make_error(ErrorCode::corrupt_data, where, "expected an array, found {}", added_tokens.type_name());
  }
  for (size_t i = 0; i < added_tokens.size(); ++i) {
    KEYE_TRY_VOID(parsed.add(added_tokens[i], vocabulary, normalizer, fmt::format("{}[{}]", where, i)));
  }
  for (AddedToken& token : parsed.tokens_) {
    const AddedToken* const named = parsed.find(token.text);
    token.is_skipped = named != nullptr && named->special;
  }
  return parsed;
}

Result<void> AddedTokens::add(const Json& entry, const Vocabulary& vocabulary, const Normalizer& normalizer,
                              const std::string& where) {
  KEYE_TRY(
      const JsonFields fields,
      JsonFields::open(entry, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  AddedToken token;
  KEYE_TRY(token.content, fields.string("content"));
  KEYE_TRY(token.single_word, fields.boolean("single_word"));
  KEYE_TRY(token.lstrip, fields.boolean("lstrip"));
  KEYE_TRY(token.rstrip, fields.boolean("rstrip"));
  KEYE_TRY(token.normalized, fields.boolean("normalized"));
  KEYE_TRY(token.special, fields.boolean("special"));
  if (token.content.empty() || token.content.size() > kAddedTokenBytesMax) {
    return make_error(ErrorCode::too_large, fields.where("content"), "expected 1 to {} bytes, found {}",
                      kAddedTokenBytesMax, token.content.size());
  }

  const std::optional<int32_t> known_id = vocabulary.find(token.content);
  token.id = known_id ? *known_id : next_id_;
  KEYE_TRY(const Json* const id, fields.need("id"));
  if (*id != token.id) {
    return make_error(ErrorCode::corrupt_data, fields.where("id"), "\"{}\" has id {}, expected {} ({})", token.content,
                      show_json(*id), token.id, known_id ? "its id in the vocabulary" : "the next free one");
  }
  if (token.id >= kTokenIdEnd || (!known_id && vocabulary.token(token.id))) {
    return make_error(ErrorCode::corrupt_data, fields.where("id"), "{} is too large or taken", token.id);
  }
  if (!known_id) ++next_id_;

  token.text = token.content;
  if (token.normalized && !normalizer.leaves(token.content)) token.text = normalizer.apply(token.content, {}).text;
  const auto index = static_cast<int>(tokens_.size());
  const bool is_new = by_content_.emplace(token.content, tokens_.size()).second &&
                      (token.normalized ? normalized_ : raw_).insert(token.text, index, token.special);
  if (!is_new) {
    return make_error(ErrorCode::corrupt_data, fields.where("content"), "\"{}\" is there already", token.content);
  }
  by_id_.emplace(token.id, tokens_.size());
  id_end_ = std::max(id_end_, token.id + 1);
  tokens_.push_back(std::move(token));
  return {};
}

void AddedTokens::split(std::string_view text, std::string_view origin, bool normalized,
                        std::vector<Part>& parts) const {
  const AddedTokenTrie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;    // text before this is in a part
  size_t search = 0;  // tokens are searched from here on: behind the last one, whatever space it took
  while (search < text.size()) {
    if (!trie.may_begin(text[search])) {
      ++search;
      continue;
    }
    const AddedTokenTrie::Found found =
        trie.longest(text.substr(search), origin.empty() ? origin : origin.substr(search));
    if (found.token == AddedTokenTrie::kNone) {
      ++search;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found.token)];
    size_t begin = search;
    size_t end = search + found.bytes;
    search = end;
    if (token.single_word && touches_word(text.substr(0, begin), text.substr(end))) continue;
    if (token.lstrip) begin = std::max(without_space_at_end(text.substr(0, begin)), done);
    if (token.rstrip) end += space_at_start(text.substr(end));
    if (done < begin) parts.push_back({-1, done, begin});
    // Nothing is left of a token all of which the one before it took as white space.
    if (begin < end) parts.push_back({token.id, begin, end});
    done = end;
  }
  if (done != text.size()) parts.push_back({-1, done, text.size()});
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto token = by_id_.find(id);
  return token == by_id_.end() ? nullptr : &tokens_[token->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto token = by_content_.find(std::string(content));
  return token == by_content_.end() ? nullptr : &tokens_[token->second];
}

}  // namespace keye::text
