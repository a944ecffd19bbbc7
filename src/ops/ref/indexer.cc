#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/ref/norm_rows.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// Pairs (i, i + dim / 2), in place.
void rotate(float* x, const float* cos, const float* sin, int64_t dim) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i];
    const float second = x[i + half];
    x[i] = first * cos[i] - second * sin[i];
    x[i + half] = second * cos[i] + first * sin[i];
  }
}

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

float score(const float* q, const float* gate, int64_t heads, int64_t dim, const float* page, int offset) {
  float sum = 0.0F;
  for (int64_t h = 0; h < heads; ++h) {
    float dot = 0.0F;
    for (int64_t i = 0; i < dim; ++i) dot += q[h * dim + i] * page[i * kPageTokens + offset];
    sum += gate[h] * (dot > 0.0F ? dot : 0.0F);
  }
  return sum;
}

/// Sets the bits of the topk best scores: descending, ties by ascending index; NaN is below every number.
void select(const std::vector<float>& scores, int topk, uint64_t* selection) {
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
  for (const int32_t index : order) selection[index / 64] |= uint64_t{1} << (index % 64);
}

}  // namespace

void RefBackend::do_indexer_input(const IndexerInput& op) {
  const int64_t n = op.q.shape[0];
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  const float gate_scale = 1.0F / std::sqrt(static_cast<float>(dim));
  std::vector<float> key(static_cast<size_t>(dim));
  for (const int32_t slot : op.slots) {
    if (slot % kPageTokens == 0) std::memset(op.keys.block(slot / kPageTokens, 0), 0, op.keys.head_bytes());
  }
  for (int64_t t = 0; t < n; ++t) {
    const float* in = op.q_gate.as<float>() + t * (heads * dim + heads);
    const float* cos = op.cos.as<float>() + t * (dim / 2);
    const float* sin = op.sin.as<float>() + t * (dim / 2);
    for (int64_t h = 0; h < heads; ++h) {
      float* q = op.q.as<float>() + (t * heads + h) * dim;
      rms_norm_row(in + h * dim, op.q_norm.as<float>(), op.eps, dim, q);
      rotate(q, cos, sin, dim);
      hadamard(q, dim);
      op.gate.as<float>()[t * heads + h] = in[heads * dim + h] * gate_scale;
    }
    layer_norm_row(op.k_in.as<float>() + t * dim, op.k_norm.as<float>(), op.k_bias.as<float>(), op.eps, dim,
                   key.data());
    rotate(key.data(), cos, sin, dim);
    hadamard(key.data(), dim);
    const int32_t slot = op.slots[static_cast<size_t>(t)];
    auto* page = reinterpret_cast<float*>(op.keys.block(slot / kPageTokens, 0)) + slot % kPageTokens;
    for (int64_t i = 0; i < dim; ++i) page[i * kPageTokens] = key[static_cast<size_t>(i)];
  }
}

void RefBackend::do_sparse_select(const SparseSelect& op) {
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  std::vector<float> scores;
  for (const SequenceRows& sequence : op.sequences) {
    for (int64_t r = 0; r < sequence.rows; ++r) {
      const int64_t t = sequence.first_row + r;
      const auto length = static_cast<size_t>(sequence.context + r + 1);
      scores.assign(length, 0.0F);
      // A row that keeps all needs no scores.
      if (length > static_cast<size_t>(op.topk) || !op.scores.empty()) {
        for (size_t s = 0; s < length; ++s) {
          const auto* page = reinterpret_cast<const float*>(op.keys.block(sequence.pages[s / kPageTokens], 0));
          scores[s] = score(op.q.as<float>() + t * heads * dim, op.gate.as<float>() + t * heads, heads, dim, page,
                            static_cast<int>(s % kPageTokens));
        }
      }
      uint64_t* selection = op.selection + t * op.selection_words;
      std::fill_n(selection, op.selection_words, 0);
      select(scores, op.topk, selection);
      if (!op.scores.empty()) {
        float* row = op.scores.as<float>() + t * op.scores.shape[1];
        std::fill_n(row, op.scores.shape[1], 0.0F);
        std::copy(scores.begin(), scores.end(), row);
      }
    }
  }
}

}  // namespace keye::ops
