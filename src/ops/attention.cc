#include "ops/attention.h"

#include <cstdint>

#include "base/check.h"
#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {
namespace {

void check_compute_dtype(DType dtype, const char* what) {
  KEYE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "{} is {}, not f32 or bf16", what, dtype_name(dtype));
}

void check_head_dim(int64_t dim) {
  KEYE_CHECK(dim > 0 && dim % 2 == 0 && dim <= kHeadDimMax, "head dim {} is not an even number up to {}", dim,
             kHeadDimMax);
}

void check_plane(const KvPlane& plane, const char* what, PlaneLayout layout, DType dtype, int64_t dim) {
  KEYE_CHECK(plane.layout == layout || plane.layout == PlaneLayout::rows, "{}: wrong layout", what);
  KEYE_CHECK(plane.dtype == dtype || (plane.layout == PlaneLayout::rows && plane.scaled()), "{} is {}, not {}", what,
             dtype_name(plane.dtype), dtype_name(dtype));
  KEYE_CHECK(plane.dim == dim, "{} has dim {}, not {}", what, plane.dim, dim);
  KEYE_CHECK(plane.heads > 0 && plane.data != nullptr, "{} is empty", what);
}

struct HeadShape {
  int64_t n, h, d;
};

/// Queries and the planes that they meet fit each other; the shape of the queries.
HeadShape check_heads(const ConstView& q, const KvPlane& k, const KvPlane& v) {
  KEYE_CHECK(q.shape.rank() == 3, "q is {}", q.shape.to_string());
  const HeadShape shape{q.shape[0], q.shape[1], q.shape[2]};
  check_compute_dtype(q.dtype, "q");
  check_head_dim(shape.d);
  check_view("q", q, {shape.n, shape.h, shape.d}, {q.dtype});
  check_plane(k, "k", PlaneLayout::keys, q.dtype, shape.d);
  check_plane(v, "v", PlaneLayout::values, q.dtype, v.dim);
  KEYE_CHECK(v.dim <= shape.d && v.dim % 2 == 0, "v has dim {}, k {}", v.dim, shape.d);
  KEYE_CHECK(k.heads == v.heads && shape.h % k.heads == 0, "{} query heads over {} key and {} value heads", shape.h,
             k.heads, v.heads);
  return shape;
}

}  // namespace

void check_slots(const Indices& slots, int64_t n) {
  KEYE_CHECK(static_cast<int64_t>(slots.size()) == n, "{} slots for {} tokens", slots.size(), n);
  for (size_t t = 0; t < slots.size(); ++t) {
    KEYE_CHECK(slots[t] >= 0, "slot {}", slots[t]);
    KEYE_CHECK(t == 0 || slots[t] / kPageTokens != slots[t - 1] / kPageTokens || slots[t] == slots[t - 1] + 1,
               "slot {} after slot {}", slots[t], slots[t - 1]);
  }
}

void attention_input(Backend& backend, const AttentionInput& op) {
  const auto [n, h, d] = check_heads(op.q, op.k, op.v);
  check_view("qkv", op.qkv, {n, (h + 2 * op.k.heads) * d}, {DType::f32});
  check_view("q_norm", op.q_norm, {d}, {DType::f32});
  check_view("k_norm", op.k_norm, {d}, {DType::f32});
  check_view("cos", op.cos, {n, d / 2}, {DType::f32});
  check_view("sin", op.sin, {n, d / 2}, {DType::f32});
  KEYE_CHECK(op.v.dim == d, "v has dim {}, k {}", op.v.dim, d);
  check_slots(op.slots, n);
  backend.do_attention_input(op);
}

void paged_attention(Backend& backend, const PagedAttention& op) {
  const auto [n, h, d] = check_heads(op.q, op.k, op.v);
  check_view("out", op.out, {n, h * op.v.dim}, {op.q.dtype});
  KEYE_CHECK(d == op.v.dim || backend.has_latent_attention(), "{}: keys of {} and values of {}", backend.name(), d,
             op.v.dim);
  KEYE_CHECK(op.scale > 0, "scale {}", op.scale);
  if (!op.chosen.empty()) {
    KEYE_CHECK(op.chosen.shape.rank() == 2, "chosen is {}", op.chosen.shape.to_string());
    check_view("chosen", op.chosen, {n, op.chosen.shape[1]}, {DType::i32});
    KEYE_CHECK(op.k.layout == PlaneLayout::rows && op.v.layout == PlaneLayout::rows, "a choice of keys not in rows");
  }
  for (const SequenceRows& s : op.sequences) {
    KEYE_CHECK(s.first_row >= 0 && s.rows >= 0 && s.first_row + s.rows <= n, "rows [{}, +{}) of {}", s.first_row,
               s.rows, n);
    const int64_t length = int64_t{s.context} + s.rows;
    KEYE_CHECK(s.context >= 0 && static_cast<int64_t>(s.pages.size()) * kPageTokens >= length, "{} pages for {} tokens",
               s.pages.size(), length);
    for (const int32_t page : s.pages) KEYE_CHECK(page >= 0, "page {}", page);
  }
  backend.do_paged_attention(op);
}

void vision_attention(Backend& backend, const VisionAttention& op) {
  KEYE_CHECK(op.qkv.shape.rank() == 4 && op.qkv.shape[1] == 3 && op.qkv.shape[2] == op.heads, "qkv is {}, heads {}",
             op.qkv.shape.to_string(), op.heads);
  const int64_t p = op.qkv.shape[0];
  const int64_t d = op.qkv.shape[3];
  check_compute_dtype(op.qkv.dtype, "qkv");
  check_compute_dtype(op.out.dtype, "out");
  check_head_dim(d);
  check_view("qkv", op.qkv, {p, 3, op.heads, d}, {op.qkv.dtype});
  check_view("cos", op.cos, {p, d / 2}, {DType::f32});
  check_view("sin", op.sin, {p, d / 2}, {DType::f32});
  check_view("out", op.out, {p, op.heads * d}, {op.out.dtype});
  KEYE_CHECK(op.scale > 0, "scale {}", op.scale);
  KEYE_CHECK(!op.segments.empty() && op.segments.front() == 0 && op.segments.back() == p,
             "the segments' offsets do not run from 0 to {}", p);
  for (size_t i = 1; i < op.segments.size(); ++i) {
    KEYE_CHECK(op.segments[i - 1] <= op.segments[i], "segment {} ends at {} but starts at {}", i - 1, op.segments[i],
               op.segments[i - 1]);
  }
  backend.do_vision_attention(op);
}

}  // namespace keye::ops
