#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_embed(const Embed& op) { RefBackend::do_embed(op); }
void CpuBackend::do_copy_rows(const CopyRows& op) { RefBackend::do_copy_rows(op); }
void CpuBackend::do_convert(const Convert& op) { RefBackend::do_convert(op); }
void CpuBackend::do_rope_table(const RopeTable& op) { RefBackend::do_rope_table(op); }
void CpuBackend::do_add_position_grid(const AddPositionGrid& op) { RefBackend::do_add_position_grid(op); }
void CpuBackend::do_merge_patches(const MergePatches& op) { RefBackend::do_merge_patches(op); }

}  // namespace keye::ops
