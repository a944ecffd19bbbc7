#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"

namespace keye::ops {

void CpuBackend::do_moe_route(const MoeRoute& op) {
  // An exponential costs about as much as streaming 32 bytes, a look at a candidate as much as 8.
  const int64_t row_cost = op.logits.shape[1] * (32 + 8 * op.experts.shape[1]);
  for_each_range(pool_, op.logits.shape[0], row_cost, [&](int64_t begin, int64_t end, int) {
    MoeRoute part = op;
    part.logits = rows(op.logits, begin, end);
    part.experts = rows(op.experts, begin, end);
    part.weights = rows(op.weights, begin, end);
    RefBackend::do_moe_route(part);
  });
}

void CpuBackend::do_moe_combine(const MoeCombine& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_moe_combine(op);
  const int64_t c = op.y.shape[1];
  const int64_t k = op.places.shape[1];
  for_each_range(pool_, op.places.shape[0], 4 * c * (k + 2), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const auto* places = op.places.as<int32_t>() + t * k;
      const auto* weights = op.weights.as<float>() + t * k;
      float* out = op.out.as<float>() + t * c;
      // Runs of experts that are here: all, unless ranks share them.
      for (int64_t first = 0; first < k;) {
        int64_t last = first;
        while (last < k && places[last] >= 0) ++last;
        if (last > first) kernels->add_rows(op.y.as<float>(), places + first, weights + first, last - first, c, out);
        first = last + 1;
      }
    }
  });
}

}  // namespace keye::ops
