// For tests: a tokenizer.json of a few tokens, to be changed before it is read.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "base/json.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace keye::text {

/// Ids 0 to 255 are the bytes, then come the products of the merges in order.
inline Json small_tokenizer(std::initializer_list<std::pair<const char*, const char*>> merges = {}) {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_utf8(letter_of_byte(static_cast<uint8_t>(byte)), letter);
    vocabulary[letter] = byte;
  }
  Json pairs = Json::array();
  for (const auto& [left, right] : merges) {
    const std::string product = std::string(left) + right;
    if (!vocabulary.contains(product)) vocabulary[product] = vocabulary.size();
    pairs.push_back({left, right});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(pairs)}}}};
}

struct AddedFlags {
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

/// Appends an added token with the next id, and gives the id.
inline int32_t add_token(Json& tokenizer, const std::string& content, const AddedFlags& flags = {}) {
  const auto id = static_cast<int32_t>(tokenizer["model"]["vocab"].size() + tokenizer["added_tokens"].size());
  tokenizer["added_tokens"].push_back({{"id", id},
                                       {"content", content},
                                       {"single_word", flags.single_word},
                                       {"lstrip", flags.lstrip},
                                       {"rstrip", flags.rstrip},
                                       {"normalized", flags.normalized},
                                       {"special", flags.special}});
  return id;
}

inline Result<Tokenizer> read(const Json& tokenizer) { return Tokenizer::from_json(tokenizer.dump(), "test"); }

}  // namespace keye::text
