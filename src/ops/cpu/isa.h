// Which vector instructions to use, found at run time.
#pragma once

#include <string_view>

#include "base/result.h"

namespace keye::ops {

enum class Isa : uint8_t { scalar, avx2, avx512, avx512_bf16 };

std::string_view isa_name(Isa isa);
/// The best that this build has kernels for and this processor can run.
Isa best_isa();
/// Whether this processor looks bytes up in tables of two registers (AVX-512 VBMI), as all with AVX-512 bf16 but one
/// do.
bool has_vbmi();
/// By name ("" is the best). Errors: invalid_argument, unsupported.
Result<Isa> isa_from_name(std::string_view name);

}  // namespace keye::ops
