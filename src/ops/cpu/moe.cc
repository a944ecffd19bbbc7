#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_moe_route(const MoeRoute& op) { RefBackend::do_moe_route(op); }
void CpuBackend::do_moe_combine(const MoeCombine& op) { RefBackend::do_moe_combine(op); }

}  // namespace keye::ops
