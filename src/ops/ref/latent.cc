#include "ops/latent.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/quantize_row.h"
#include "ops/ref/elements.h"
#include "ops/ref/norm_rows.h"
#include "ops/ref/ref_backend.h"
#include "ops/ref/rotate_pairs.h"

namespace keye::ops {

void RefBackend::do_latent_input(const LatentInput& op) {
  const int64_t a = op.q.shape[1];
  const int64_t r = op.kv_norm.shape[0];
  const int64_t pairs = op.cos.shape[1];
  std::vector<float> normed(static_cast<size_t>(std::max(a, r + 2 * pairs)));
  for (int64_t t = 0; t < op.q.shape[0]; ++t) {
    const float* x = op.x.as<float>() + t * (a + r + 2 * pairs);
    rms_norm_row(x, op.q_norm.as<float>(), op.eps, a, normed.data());
    for (int64_t i = 0; i < a; ++i) store_element(op.q.dtype, op.q.data, t * a + i, normed[static_cast<size_t>(i)]);

    rms_norm_row(x + a, op.kv_norm.as<float>(), op.eps, r, normed.data());
    float* rotated = normed.data() + r;
    std::memcpy(rotated, x + a + r, static_cast<size_t>(2 * pairs) * sizeof(float));
    rotate_pairs(rotated, op.cos.as<float>() + t * pairs, op.sin.as<float>() + t * pairs, op.rope_scale, pairs);
    const int32_t place = op.slots[static_cast<size_t>(t)];
    std::byte* block = op.rows.block(place / kPageTokens, 0);
    const int slot = place % kPageTokens;
    if (slot == 0) std::memset(block, 0, op.rows.head_bytes());
    if (op.rows.scaled()) {
      quantize_row(op.rows.dtype, normed.data(), op.rows.dim, op.rows.row(block, slot), op.rows.scales(block) + slot);
      continue;
    }
    for (int64_t i = 0; i < op.rows.dim; ++i) {
      store_element(op.rows.dtype, op.rows.row(block, slot), i, normed[static_cast<size_t>(i)]);
    }
  }
}

void RefBackend::do_latent_query(const LatentQuery& op) {
  const int64_t n = op.x.shape[0];
  const int64_t h = op.x.shape[1];
  const int64_t r = op.latent.shape[2];
  const int64_t pairs = op.cos.shape[1];
  std::vector<float> rotated(static_cast<size_t>(2 * pairs));
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t head = 0; head < h; ++head) {
      const int64_t to = (t * h + head) * (r + 2 * pairs);
      const int64_t from = (head * n + t) * r;
      for (int64_t i = 0; i < r; ++i) {
        store_element(op.q.dtype, op.q.data, to + i, load_element(op.latent.dtype, op.latent.data, from + i));
      }
      const float* x = op.x.as<float>() + (t * h + head + 1) * op.x.shape[2] - 2 * pairs;
      std::memcpy(rotated.data(), x, static_cast<size_t>(2 * pairs) * sizeof(float));
      rotate_pairs(rotated.data(), op.cos.as<float>() + t * pairs, op.sin.as<float>() + t * pairs, op.rope_scale,
                   pairs);
      for (int64_t i = 0; i < 2 * pairs; ++i) {
        store_element(op.q.dtype, op.q.data, to + r + i, rotated[static_cast<size_t>(i)]);
      }
    }
  }
}

void RefBackend::do_swap_axes(const SwapAxes& op) {
  const int64_t a = op.x.shape[0];
  const int64_t b = op.x.shape[1];
  const int64_t w = op.out.shape[2];
  for (int64_t j = 0; j < b; ++j) {
    for (int64_t i = 0; i < a; ++i) {
      for (int64_t k = 0; k < w; ++k) {
        store_element(op.out.dtype, op.out.data, (j * a + i) * w + k,
                      load_element(op.x.dtype, op.x.data, (i * b + j) * op.x.shape[2] + k));
      }
    }
  }
}

}  // namespace keye::ops
