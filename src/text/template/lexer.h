// Template source to tokens, with jinja's whitespace rules (trim_blocks, lstrip_blocks, no trailing newline) applied.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/template/ast.h"

namespace keye::text {

enum class TokenKind : uint8_t {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  symbol,
  end
};

struct Token {
  TokenKind kind = TokenKind::end;
  Position at;
  std::string text;  // data, names, decoded strings, digits without '_', the operator's characters
};

/// The last token is `end`. Errors: invalid_argument, with `where`:line:column.
Result<std::vector<Token>> tokenize(std::string_view source, std::string_view where);

Error syntax_error(std::string_view where, Position at, std::string message);

}  // namespace keye::text
