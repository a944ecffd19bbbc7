// Decides at compile time which variable each name means, by jinja2's rules: what a loop, a macro or a block sets stays
// inside; a name that is set anywhere in a scope belongs to that scope; a branch of an `if` that is not taken leaves
// the outer value. Also finds the filters and tests, and refuses what Python would refuse to compile.
#pragma once

#include "base/result.h"
#include "text/template/ast.h"

namespace keye::text {

/// Errors: invalid_argument (unknown filter or test, `break` outside a loop, assignment to `loop`), unsupported.
Result<void> resolve_scopes(Program& program);

}  // namespace keye::text
