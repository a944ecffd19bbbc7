#include "text/detokenizer.h"

#include "text/unicode.h"

namespace keye::text {

std::string Detokenizer::push(int32_t id) {
  tokenizer_->append_bytes(id, skip_special_tokens_, waiting_);
  std::string text;
  waiting_.erase(0, append_valid_utf8(waiting_, text));
  return text;
}

std::string Detokenizer::flush() {
  std::string text = repair_utf8(waiting_, {}).text;
  waiting_.clear();
  return text;
}

}  // namespace keye::text
