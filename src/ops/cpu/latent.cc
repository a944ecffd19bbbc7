#include "ops/latent.h"

#include <cstring>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"
#include "ops/ref/rotate_pairs.h"

namespace keye::ops {

void CpuBackend::do_latent_input(const LatentInput& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_latent_input(op);
  // Before any row is written, so that a page's new tokens may be written by any thread.
  for (const int32_t slot : op.slots) {
    if (slot % kPageTokens == 0) std::memset(op.rows.block(slot / kPageTokens, 0), 0, op.rows.head_bytes());
  }
  const int64_t a = op.q.shape[1];
  const int64_t r = op.kv_norm.shape[0];
  const int64_t pairs = op.cos.shape[1];
  const size_t row_bytes = static_cast<size_t>(r + 2 * pairs) * sizeof(float);
  const bool wide = op.q.dtype == DType::f32;
  for_each_range(pool_, op.q.shape[0], 8 * (a + r + 2 * pairs), [&](int64_t begin, int64_t end, int worker) {
    auto* row = static_cast<float*>(scratch(worker, row_bytes));
    for (int64_t t = begin; t < end; ++t) {
      const float* x = op.x.as<float>() + t * (a + r + 2 * pairs);
      kernels->rms_norm(x, op.q_norm.as<float>(), op.eps, a, wide ? op.q.as<float>() + t * a : nullptr,
                        wide ? nullptr : op.q.as<uint16_t>() + t * a);
      kernels->rms_norm(x + a, op.kv_norm.as<float>(), op.eps, r, row, nullptr);
      std::memcpy(row + r, x + a + r, static_cast<size_t>(2 * pairs) * sizeof(float));
      rotate_pairs(row + r, op.cos.as<float>() + t * pairs, op.sin.as<float>() + t * pairs, op.rope_scale, pairs);
      const int32_t slot = op.slots[static_cast<size_t>(t)];
      write_head(*kernels, op.rows, row, op.rows.block(slot / kPageTokens, 0), slot % kPageTokens, nullptr);
    }
  });
}

void CpuBackend::do_latent_query(const LatentQuery& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_latent_query(op);
  const int64_t n = op.x.shape[0];
  const int64_t h = op.x.shape[1];
  const int64_t r = op.latent.shape[2];
  const int64_t pairs = op.cos.shape[1];
  const size_t element = dtype_bytes(op.q.dtype);
  const auto latent_bytes = static_cast<size_t>(r) * element;
  const auto rope_floats = static_cast<size_t>(2 * pairs);
  for_each_range(
      pool_, n, h * (2 * static_cast<int64_t>(latent_bytes) + 16 * pairs), [&](int64_t begin, int64_t end, int worker) {
        auto* rotated = static_cast<float*>(scratch(worker, rope_floats * sizeof(float)));
        for (int64_t t = begin; t < end; ++t) {
          auto* to = op.q.as<std::byte>() + static_cast<size_t>(t * h * (r + 2 * pairs)) * element;
          for (int64_t head = 0; head < h; ++head) {
            std::memcpy(to, op.latent.as<std::byte>() + static_cast<size_t>(head * n + t) * latent_bytes, latent_bytes);
            to += latent_bytes;
            const float* x = op.x.as<float>() + (t * h + head + 1) * op.x.shape[2] - 2 * pairs;
            std::memcpy(rotated, x, rope_floats * sizeof(float));
            rotate_pairs(rotated, op.cos.as<float>() + t * pairs, op.sin.as<float>() + t * pairs, op.rope_scale, pairs);
            round_to(*kernels, op.q.dtype, static_cast<int>(2 * pairs), rotated, to);
            to += rope_floats * element;
          }
        }
      });
}

void CpuBackend::do_swap_axes(const SwapAxes& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_swap_axes(op);
  const int64_t a = op.x.shape[0];
  const int64_t b = op.x.shape[1];
  const int64_t w = op.out.shape[2];
  const auto from_bytes = op.x.shape[2] * static_cast<int64_t>(dtype_bytes(op.x.dtype));
  const auto to_bytes = w * static_cast<int64_t>(dtype_bytes(op.out.dtype));
  for_each_range(pool_, a * b, from_bytes + to_bytes, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; ++at) {  // rows of out, one after another
      const int64_t from = at % a * b + at / a;
      copy_elements(*kernels, op.x.dtype, op.x.as<std::byte>() + from * from_bytes, op.out.dtype,
                    op.out.as<std::byte>() + at * to_bytes, w);
    }
  });
}

}  // namespace keye::ops
