#include "ops/indexer.h"

#include <bit>

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {
namespace {

void check_keys(Backend& backend, const KvPlane& keys, const ConstView& q) {
  KEYE_CHECK(q.shape.rank() == 3, "q is {}, expected [n, H, D]", q.shape.to_string());
  check_view("q", q, q.shape, {DType::f32, DType::bf16});
  KEYE_CHECK(keys.heads == 1 && keys.dim == q.shape[2] && keys.dtype == q.dtype,
             "the plane has {} heads of {} {}, expected one of {} {}", keys.heads, keys.dim, dtype_name(keys.dtype),
             q.shape[2], dtype_name(q.dtype));
  KEYE_CHECK(keys.layout == (backend.wants_rows() ? PlaneLayout::rows : PlaneLayout::keys), "keys: wrong layout");
}

}  // namespace

void indexer_input(Backend& backend, const IndexerInput& op) {
  check_keys(backend, op.keys, op.q);
  const int64_t n = op.q.shape[0];
  const int64_t heads = op.q.shape[1];
  const int64_t dim = op.q.shape[2];
  KEYE_CHECK(heads > 0 && dim >= 2 && std::has_single_bit(static_cast<uint64_t>(dim)),
             "{} heads of {}: the width must be a power of two", heads, dim);
  check_view("q_gate", op.q_gate, {n, heads * dim + heads}, {DType::f32});
  check_view("k_in", op.k_in, {n, dim}, {DType::f32});
  check_view("q_norm", op.q_norm, {dim}, {DType::f32});
  check_view("k_norm", op.k_norm, {dim}, {DType::f32});
  check_view("k_bias", op.k_bias, {dim}, {DType::f32});
  check_view("cos", op.cos, {n, dim / 2}, {DType::f32});
  check_view("sin", op.sin, {n, dim / 2}, {DType::f32});
  check_view("gate", op.gate, {n, heads}, {DType::f32});
  KEYE_CHECK(static_cast<int64_t>(op.slots.size()) == n, "{} slots for {} tokens", op.slots.size(), n);
  for (const int32_t slot : op.slots) KEYE_CHECK(slot >= 0, "slot {}", slot);
  backend.do_indexer_input(op);
}

void sparse_select(Backend& backend, const SparseSelect& op) {
  check_keys(backend, op.keys, op.q);
  const int64_t n = op.q.shape[0];
  check_view("gate", op.gate, {n, op.q.shape[1]}, {DType::f32});
  KEYE_CHECK(op.chosen.shape.rank() == 2 && op.chosen.shape[1] > 0, "chosen is {}", op.chosen.shape.to_string());
  check_view("chosen", op.chosen, {n, op.chosen.shape[1]}, {DType::i32});
  if (!op.scores.empty()) {
    KEYE_CHECK(op.scores.shape.rank() == 2, "scores is {}, expected [n, m]", op.scores.shape.to_string());
    check_view("scores", op.scores, {n, op.scores.shape[1]}, {DType::f32});
  }
  for (const SequenceRows& s : op.sequences) {
    KEYE_CHECK(s.first_row >= 0 && s.rows >= 0 && int64_t{s.first_row} + s.rows <= n, "rows [{}, +{}) of {}",
               s.first_row, s.rows, n);
    const int64_t length = int64_t{s.context} + s.rows;
    KEYE_CHECK(s.context >= 0 && length <= static_cast<int64_t>(s.pages.size()) * kPageTokens, "{} tokens in {} pages",
               length, s.pages.size());
    KEYE_CHECK(op.scores.empty() || length <= op.scores.shape[1], "{} tokens in scores {}", length,
               op.scores.shape.to_string());
  }
  backend.do_sparse_select(op);
}

}  // namespace keye::ops
