#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

PackedMatrix CpuBackend::do_pack(const PackMatrix& source) { return RefBackend::do_pack(source); }

void CpuBackend::do_linear(const Linear& op) { RefBackend::do_linear(op); }

void CpuBackend::do_grouped_linear(const GroupedLinear& op) { RefBackend::do_grouped_linear(op); }

}  // namespace keye::ops
