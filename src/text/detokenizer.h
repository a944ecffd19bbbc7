// Token ids to text as they come, one by one.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace keye::text {

/// The pieces of push() and flush(), joined, are what Tokenizer::decode gives for all ids at once; every piece is valid
/// UTF-8 and holds whole characters only.
class Detokenizer {
 public:
  /// The tokenizer must outlive this.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  /// The text that is certain now. What the token adds to an unfinished character waits for the rest of it.
  std::string push(int32_t id);
  /// At the end: U+FFFD if a character is unfinished. Then the next text can begin.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string waiting_;  // the beginning of a character: at most 3 bytes between calls
};

}  // namespace keye::text
