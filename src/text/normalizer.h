// The "normalizer" of a tokenizer.json: normal forms of Unicode, one after the other.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/unicode.h"

namespace keye::text {

class Normalizer {
 public:
  /// Reads null, NFC, NFD, NFKC, NFKD and sequences of them. Errors: unsupported, corrupt_data, too_large.
  static Result<Normalizer> parse(const Json& normalizer, const std::string& where);

  /// True if apply() would change nothing; rarely false where it would not.
  bool leaves(std::string_view text) const;
  /// See text/unicode.h, normalize().
  Marked apply(std::string_view text, std::string_view origin) const;

 private:
  Result<void> add(const Json& part, const std::string& where);

  std::vector<NormalForm> forms_;
};

}  // namespace keye::text
