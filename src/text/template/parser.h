// Tokens to a syntax tree; names are not resolved yet.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/template/ast.h"

namespace keye::text {

/// Fills program.body from the source. Errors: invalid_argument (syntax), unsupported (a tag this program refuses),
/// with `where`:line:column.
Result<Program> parse_template(std::string_view source, std::string_view where);

}  // namespace keye::text
