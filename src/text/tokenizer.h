// Text to token ids and back, from a Hugging Face tokenizer.json with a byte-level BPE model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace keye::text {

/// No text given to encode may be longer; far beyond any model's context.
inline constexpr size_t kEncodeBytesMax = size_t{64} << 20;

/// Gives the same ids and texts as the Python package `tokenizers` does for the same file. Safe to use from many
/// threads at once. Text that is not valid UTF-8, which that package does not take, has each invalid part replaced by
/// U+FFFD first.
class Tokenizer {
 public:
  /// Errors: not_found, io, too_large; corrupt_data; unsupported (named: a part of the file that is not implemented).
  static Result<Tokenizer> load(const Path& tokenizer_json);
  /// `where` names the source in errors.
  static Result<Tokenizer> from_json(std::string_view text, std::string_view where);

  /// As encode(text, add_special_tokens=False): added tokens in the text are recognised.
  std::vector<int32_t> encode(std::string_view text) const { return encode(text, {}); }
  /// The same, but an added token is recognised only where every byte of it allows that: bytes of the engine allow all,
  /// those of the assistant the ones that are not special, those of a user none. `origin` is as long as `text` (see
  /// text/marked.h), or empty for all by the engine.
  std::vector<int32_t> encode(std::string_view text, std::string_view origin) const;
  /// As if there were no added tokens.
  std::vector<int32_t> encode_plain(std::string_view text) const;

  /// Ids without a token are left out; what is not UTF-8 in the end becomes U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  /// Appends the bytes that a token stands for, which can be part of a character; nothing for an id without a token.
  void append_bytes(int32_t id, bool skip_special_tokens, std::string& out) const;
  std::string token_bytes(int32_t id) const;

  /// Tokens are named as in the file: those of the model in the letters of bytes ("Ġthe").
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::optional<std::string> id_to_token(int32_t id) const;
  /// One more than the largest id.
  int32_t vocabulary_size() const { return std::max(bpe_.vocabulary().id_end(), added_.id_end()); }
  bool is_added(int32_t id) const { return added_.find(id) != nullptr; }
  bool is_special(int32_t id) const { return is_added(id) && added_.find(id)->special; }

 private:
  class Encoding;
  Tokenizer(Bpe bpe, Normalizer normalizer, PreTokenizer pre_tokenizer, AddedTokens added)
      : bpe_(std::move(bpe)),
        normalizer_(std::move(normalizer)),
        pre_tokenizer_(std::move(pre_tokenizer)),
        added_(std::move(added)) {}

  Bpe bpe_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens added_;
};

}  // namespace keye::text
