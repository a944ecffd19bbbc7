#include "text/tokenizer.h"

#include <array>
#include <deque>
#include <utility>

#include "base/check.h"
#include "text/byte_alphabet.h"
#include "text/json_fields.h"
#include "text/marked.h"
#include "text/unicode.h"

namespace keye::text {
namespace {

constexpr size_t kFileBytesMax = size_t{256} << 20;

/// Only ByteLevel, alone or in sequences, is known.
Result<void> check_decoder(const Json& decoder, const std::string& where) {
  if (decoder.is_null()) {
    return make_error(ErrorCode::unsupported, where, "no decoder: only ByteLevel is supported");
  }
  KEYE_TRY(const std::string type, type_of(decoder, where));
  if (type == "ByteLevel") return {};  // its fields matter to the pre-tokenizer of the same name only
  if (type == "Sequence") {
    KEYE_TRY(const JsonFields fields, JsonFields::open(decoder, where, {"type", "decoders"}));
    KEYE_TRY(const Json* const parts, fields.array("decoders"));
    if (parts->size() == 1) return check_decoder(parts->front(), where + ".decoders[0]");
  }
  return make_error(ErrorCode::unsupported, where, "decoder \"{}\" is not supported, only one ByteLevel", type);
}

/// A post-processor adds tokens around a text where they are asked for, which is never here: there is nothing to do but
/// to see that it is one of those.
Result<void> check_post_processor(const Json& processor, const std::string& where) {
  if (processor.is_null()) return {};
  KEYE_TRY(const std::string type, type_of(processor, where));
  if (type == "ByteLevel" || type == "TemplateProcessing") return {};
  if (type == "Sequence") {
    KEYE_TRY(const JsonFields fields, JsonFields::open(processor, where, {"type", "processors"}));
    KEYE_TRY(const Json* const parts, fields.array("processors"));
    for (size_t i = 0; i < parts->size(); ++i) {
      KEYE_TRY_VOID(check_post_processor((*parts)[i], fmt::format("{}.processors[{}]", where, i)));
    }
    return {};
  }
  return make_error(ErrorCode::unsupported, where,
                    "post-processor \"{}\" is not supported, only ByteLevel, TemplateProcessing and Sequence", type);
}

}  // namespace

/// One run of encode().
class Tokenizer::Encoding {
 public:
  Encoding(const Tokenizer& tokenizer, size_t bytes) : tokenizer_(tokenizer), bpe_(tokenizer.bpe_, ids_, bytes) {}

  /// Valid UTF-8 that lives as long as this object.
  void add(std::string_view text, std::string_view origin) {
    for_parts(text, origin, false,
              [this](std::string_view part, std::string_view part_origin) { add_raw(part, part_origin, true); });
  }
  void add_plain(std::string_view text) { add_raw(text, {}, false); }
  std::vector<int32_t> take_ids() && { return std::move(ids_); }

 private:
  /// Calls body(text, origin) for what is between the added tokens.
  template <class Body>
  void for_parts(std::string_view text, std::string_view origin, bool normalized, Body body) {
    std::vector<AddedTokens::Part> parts;
    tokenizer_.added_.split(text, origin, normalized, parts);
    for (const AddedTokens::Part& part : parts) {
      if (part.id >= 0) {
        ids_.push_back(part.id);
      } else {
        const size_t bytes = part.end - part.begin;
        body(text.substr(part.begin, bytes), origin.empty() ? origin : origin.substr(part.begin, bytes));
      }
    }
  }

  void add_raw(std::string_view text, std::string_view origin, bool added_tokens) {
    if (!tokenizer_.normalizer_.leaves(text)) {
      const Marked& kept = kept_.emplace_back(tokenizer_.normalizer_.apply(text, origin));
      text = kept.text;
      origin = kept.origin;
    }
    if (added_tokens) {
      for_parts(text, origin, true, [this](std::string_view part, std::string_view) { add_words(part); });
    } else {
      add_words(text);
    }
  }

  void add_words(std::string_view text) {
    words_.clear();
    tokenizer_.pre_tokenizer_.split(text, scratch_, words_);
    for (const std::string_view word : words_) bpe_.encode(word);
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  std::deque<Marked> kept_;  // normalised texts, which words may be part of
  PreTokenizer::Scratch scratch_;
  std::vector<std::string_view> words_;
  BpeEncoder bpe_;
};

Result<Tokenizer> Tokenizer::load(const Path& tokenizer_json) {
  KEYE_TRY(const std::string text, read_file(tokenizer_json, kFileBytesMax));
  return from_json(text, tokenizer_json.string());
}

Result<Tokenizer> Tokenizer::from_json(std::string_view text, std::string_view where) {
  KEYE_TRY(const Json json, parse_json(text, where));
  const std::string source(where);
  KEYE_TRY(const JsonFields fields, JsonFields::open(json, source,
                                                     {"version", "truncation", "padding", "added_tokens", "normalizer",
                                                      "pre_tokenizer", "post_processor", "decoder", "model"}));
  for (const std::string_view name : {"truncation", "padding"}) {
    if (fields.find(name) == nullptr) continue;
    return make_error(ErrorCode::unsupported, source, "\"{}\" is not supported: set it to null", name);
  }
  if (fields.find("version") != nullptr) {
    KEYE_TRY(const std::string version, fields.string("version"));
    if (version != "1.0") return make_error(ErrorCode::unsupported, source, "version \"{}\" is not supported", version);
  }
  const auto part = [&](const char* name) {
    const Json* const found = fields.find(name);
    return found == nullptr ? Json() : *found;
  };
  const auto in_source = [&](const char* name) { return fmt::format("{}: {}", source, name); };
  KEYE_TRY(const Json* const model, fields.need("model"));
  KEYE_TRY(Bpe bpe, Bpe::parse(*model, in_source("model")));
  KEYE_TRY(Normalizer normalizer, Normalizer::parse(part("normalizer"), in_source("normalizer")));
  KEYE_TRY(PreTokenizer pre_tokenizer, PreTokenizer::parse(part("pre_tokenizer"), in_source("pre_tokenizer")));
  KEYE_TRY_VOID(check_post_processor(part("post_processor"), in_source("post_processor")));
  KEYE_TRY_VOID(check_decoder(part("decoder"), in_source("decoder")));
  KEYE_TRY(AddedTokens added,
           AddedTokens::parse(part("added_tokens"), bpe.vocabulary(), normalizer, in_source("added_tokens")));
  return Tokenizer(std::move(bpe), std::move(normalizer), std::move(pre_tokenizer), std::move(added));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, std::string_view origin) const {
  KEYE_CHECK(text.size() <= kEncodeBytesMax, "{} bytes", text.size());
  KEYE_CHECK(origin.empty() || origin.size() == text.size(), "{} origins for {} bytes", origin.size(), text.size());
  Marked repaired;
  if (!is_utf8(text)) {
    repaired = repair_utf8(text, origin);
    text = repaired.text;
    origin = repaired.origin;
  }
  Encoding encoding(*this, text.size());
  encoding.add(text, origin);
  return std::move(encoding).take_ids();
}

std::vector<int32_t> Tokenizer::encode_plain(std::string_view text) const {
  KEYE_CHECK(text.size() <= kEncodeBytesMax, "{} bytes", text.size());
  Marked repaired;
  if (!is_utf8(text)) {
    repaired = repair_utf8(text, {});
    text = repaired.text;
  }
  Encoding encoding(*this, text.size());
  encoding.add_plain(text);
  return std::move(encoding).take_ids();
}

void Tokenizer::append_bytes(int32_t id, bool skip_special_tokens, std::string& out) const {
  if (const AddedToken* const added = added_.find(id)) {
    if (!skip_special_tokens || !added->is_skipped) append_spelled_bytes(added->text, out);
  } else if (const std::optional<std::string_view> token = bpe_.vocabulary().token(id)) {
    append_spelled_bytes(*token, out);
  }
}

std::string Tokenizer::token_bytes(int32_t id) const {
  std::string bytes;
  append_bytes(id, false, bytes);
  return bytes;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) append_bytes(id, skip_special_tokens, bytes);
  if (is_utf8(bytes)) return bytes;
  return repair_utf8(bytes, {}).text;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* const added = added_.find(token)) return added->id;
  return bpe_.vocabulary().find(token);
}

std::optional<std::string> Tokenizer::id_to_token(int32_t id) const {
  if (const AddedToken* const added = added_.find(id)) return added->text;
  const std::optional<std::string_view> token = bpe_.vocabulary().token(id);
  return token ? std::optional(std::string(*token)) : std::nullopt;
}

}  // namespace keye::text
