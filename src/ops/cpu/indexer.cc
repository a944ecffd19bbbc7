#include "ops/cpu/cpu_backend.h"

namespace keye::ops {

void CpuBackend::do_indexer_input(const IndexerInput& op) { RefBackend::do_indexer_input(op); }
void CpuBackend::do_sparse_select(const SparseSelect& op) { RefBackend::do_sparse_select(op); }

}  // namespace keye::ops
