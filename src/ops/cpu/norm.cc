#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_rms_norm(const RmsNorm& op) { RefBackend::do_rms_norm(op); }
void CpuBackend::do_layer_norm(const LayerNorm& op) { RefBackend::do_layer_norm(op); }

}  // namespace keye::ops
