#include "ops/cpu/isa.h"

namespace keye::ops {
namespace {

bool runs(Isa isa) {
#if defined(KEYE_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512_bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

Isa best_isa() {
  for (Isa isa : {Isa::avx512_bf16, Isa::avx512, Isa::avx2}) {
    if (runs(isa)) return isa;
  }
  return Isa::scalar;
}

bool has_vbmi() {
#if defined(KEYE_X86)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vbmi");
#else
  return false;
#endif
}

Result<Isa> isa_from_name(std::string_view name) {
  if (name.empty()) return best_isa();
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    if (isa_name(isa) != name) continue;
    if (!runs(isa)) {
      return make_error(ErrorCode::unsupported, "isa",
                        "this processor or build cannot run \"{}\"; the best here is \"{}\"", name,
                        isa_name(best_isa()));
    }
    return isa;
  }
  return make_error(ErrorCode::invalid_argument, "isa",
                    "unknown instruction set \"{}\"; known are scalar, avx2, avx512, avx512_bf16", name);
}

}  // namespace keye::ops
