#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"

namespace keye::ops {
namespace {

/// Calls row(x, out, narrow) for every row, one of out and narrow null by out's dtype.
template <class Row>
void for_each_row(ThreadPool& pool, const ConstView& x, const View& out, Row row) {
  const int64_t c = x.shape[1];
  const bool wide = out.dtype == DType::f32;
  for_each_range(pool, x.shape[0], c * 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      row(x.as<float>() + t * c, wide ? out.as<float>() + t * c : nullptr, wide ? nullptr : out.as<uint16_t>() + t * c);
    }
  });
}

}  // namespace

void CpuBackend::do_rms_norm(const RmsNorm& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_rms_norm(op);
  if (!op.exact.empty()) do_rms_norm({op.x, op.weight, op.eps, op.exact});
  for_each_row(pool_, op.x, op.out, [&](const float* x, float* out, uint16_t* narrow) {
    kernels->rms_norm(x, op.weight.as<float>(), op.eps, op.x.shape[1], out, narrow);
  });
}

void CpuBackend::do_layer_norm(const LayerNorm& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_layer_norm(op);
  for_each_row(pool_, op.x, op.out, [&](const float* x, float* out, uint16_t* narrow) {
    kernels->layer_norm(x, op.weight.as<float>(), op.bias.as<float>(), op.eps, op.x.shape[1], out, narrow);
  });
}

}  // namespace keye::ops
