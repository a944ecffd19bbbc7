#include "ops/attention.h"

#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_vision_attention(const VisionAttention& op) { RefBackend::do_vision_attention(op); }

}  // namespace keye::ops
