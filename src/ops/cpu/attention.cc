#include "ops/attention.h"

#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_attention_input(const AttentionInput& op) { RefBackend::do_attention_input(op); }
void CpuBackend::do_paged_attention(const PagedAttention& op) { RefBackend::do_paged_attention(op); }

}  // namespace keye::ops
