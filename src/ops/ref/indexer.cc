#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/quantize_row.h"
#include "ops/ref/elements.h"
#include "ops/ref/norm_rows.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// The arithmetic of an indexer: f32, or rounded to bf16 after every step.
struct Arithmetic {
  bool narrow;

  float round(float x) const { return narrow ? static_cast<float>(BFloat16(x)) : x; }
  void round(float* x, int64_t dim) const {
    for (int64_t i = 0; i < dim; ++i) x[i] = round(x[i]);
  }
  /// Pairs (i, i + dim / 2), in place.
  void rotate(float* x, const float* cos, const float* sin, int64_t dim) const {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const float first = x[i];
      const float second = x[i + half];
      const float c = round(cos[i]);
      const float s = round(sin[i]);
      x[i] = round(round(first * c) - round(second * s));
      x[i + half] = round(round(second * c) + round(first * s));
    }
  }
};

/// x <- H x dim^-0.5, where H[i][j] = (-1)^popcount(i & j): the fast Walsh-Hadamard transform, strides ascending.
void hadamard(float* x, int64_t dim) {
  for (int64_t stride = 1; stride < dim; stride *= 2) {
    for (int64_t i = 0; i < dim; ++i) {
      if ((i & stride) != 0) continue;
      const float first = x[i];
      const float second = x[i + stride];
      x[i] = first + second;
      x[i + stride] = first - second;
    }
  }
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  for (int64_t i = 0; i < dim; ++i) x[i] *= scale;
}

/// Where channel i of the key in `slot` lies in its page, in elements.
int64_t key_index(DType dtype, int slot, int64_t i) {
  return dtype == DType::f32 ? i * kPageTokens + slot : (i / 2 * kPageTokens + slot) * 2 + i % 2;
}

float score(const SparseSelect& op, int64_t t, const std::byte* page, int slot) {
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  const float* gate = op.gate.as<float>() + t * heads;
  float sum = 0.0F;
  for (int64_t h = 0; h < heads; ++h) {
    float dot = 0.0F;
    for (int64_t i = 0; i < dim; ++i) {
      dot += load_element(op.q.dtype, op.q.data, (t * heads + h) * dim + i) *
             load_element(op.q.dtype, page, key_index(op.q.dtype, slot, i));
    }
    sum += gate[h] * (dot > 0.0F ? dot : 0.0F);
  }
  return sum;
}

/// The indices of the topk best scores: descending, ties by ascending index; NaN is below every number.
void select(const std::vector<float>& scores, int64_t topk, int32_t* chosen) {
  std::vector<int32_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)];
    const float y = scores[static_cast<size_t>(b)];
    if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
    if (x > y || x < y) return x > y;
    return a < b;
  };
  if (static_cast<size_t>(topk) < order.size()) {
    std::nth_element(order.begin(), order.begin() + topk, order.end(), before);
    order.resize(static_cast<size_t>(topk));
  }
  std::sort(order.begin(), order.end());
  std::fill(std::copy(order.begin(), order.end(), chosen), chosen + topk, -1);
}

}  // namespace

void RefBackend::do_indexer_input(const IndexerInput& op) {
  const int64_t n = op.q.shape[0];
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  const float gate_scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const DType dtype = op.q.dtype;
  const Arithmetic arithmetic{dtype == DType::bf16};
  std::vector<float> row(static_cast<size_t>(dim));
  for (const int32_t slot : op.slots) {
    if (slot % kPageTokens == 0) std::memset(op.keys.block(slot / kPageTokens, 0), 0, op.keys.head_bytes());
  }
  for (int64_t t = 0; t < n; ++t) {
    const float* in = op.q_gate.as<float>() + t * (heads * dim + heads);
    const auto finish = [&] {
      float* x = row.data();
      arithmetic.round(x, dim);
      arithmetic.rotate(x, op.cos.as<float>() + t * (dim / 2), op.sin.as<float>() + t * (dim / 2), dim);
      hadamard(x, dim);
      arithmetic.round(x, dim);
      if (arithmetic.narrow) round_row_to_f8(x, static_cast<int>(dim));
    };
    for (int64_t h = 0; h < heads; ++h) {
      rms_norm_row(in + h * dim, op.q_norm.as<float>(), op.eps, dim, row.data());
      finish();
      for (int64_t i = 0; i < dim; ++i)
        store_element(dtype, op.q.data, (t * heads + h) * dim + i, row[static_cast<size_t>(i)]);
      op.gate.as<float>()[t * heads + h] = in[heads * dim + h] * gate_scale;
    }
    layer_norm_row(op.k_in.as<float>() + t * dim, op.k_norm.as<float>(), op.k_bias.as<float>(), op.eps, dim,
                   row.data());
    finish();
    const int32_t slot = op.slots[static_cast<size_t>(t)];
    std::byte* page = op.keys.block(slot / kPageTokens, 0);
    for (int64_t i = 0; i < dim; ++i) {
      store_element(dtype, page, key_index(dtype, slot % kPageTokens, i), row[static_cast<size_t>(i)]);
    }
  }
}

void RefBackend::do_sparse_select(const SparseSelect& op) {
  const int64_t topk = op.chosen.shape[1];
  std::vector<float> scores;
  for (const SequenceRows& sequence : op.sequences) {
    for (int64_t r = 0; r < sequence.rows; ++r) {
      const int64_t t = sequence.first_row + r;
      const auto length = static_cast<size_t>(sequence.context + r + 1);
      scores.assign(length, 0.0F);
      // A row that keeps all needs no scores.
      if (length > static_cast<size_t>(topk) || !op.scores.empty()) {
        for (size_t s = 0; s < length; ++s) {
          scores[s] =
              score(op, t, op.keys.block(sequence.pages[s / kPageTokens], 0), static_cast<int>(s % kPageTokens));
        }
      }
      select(scores, topk, op.chosen.as<int32_t>() + t * topk);
      if (!op.scores.empty()) {
        float* row = op.scores.as<float>() + t * op.scores.shape[1];
        std::fill_n(row, op.scores.shape[1], 0.0F);
        std::copy(scores.begin(), scores.end(), row);
      }
    }
  }
}

}  // namespace keye::ops
