#include "ops/latent.h"

#include "ops/attention.h"
#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {

void latent_input(Backend& backend, const LatentInput& op) {
  KEYE_CHECK(op.q.shape.rank() == 2 && op.kv_norm.shape.rank() == 1 && op.cos.shape.rank() == 2, "q is {}",
             op.q.shape.to_string());
  const int64_t n = op.q.shape[0];
  const int64_t a = op.q.shape[1];
  const int64_t r = op.kv_norm.shape[0];
  const int64_t p = 2 * op.cos.shape[1];
  check_view("x", op.x, {n, a + r + p}, {DType::f32});
  check_view("q_norm", op.q_norm, {a}, {DType::f32});
  check_view("kv_norm", op.kv_norm, {r}, {DType::f32});
  check_view("cos", op.cos, {n, p / 2}, {DType::f32});
  check_view("sin", op.sin, {n, p / 2}, {DType::f32});
  check_view("q", op.q, {n, a}, {DType::f32, DType::bf16});
  KEYE_CHECK(
      op.rows.layout == PlaneLayout::rows && op.rows.heads == 1 && op.rows.dim == r + p && op.rows.data != nullptr,
      "the plane has {} heads of {}", op.rows.heads, op.rows.dim);
  KEYE_CHECK(op.rows.dim <= kHeadDimMax, "rows of {} elements; at most {}", op.rows.dim, kHeadDimMax);
  KEYE_CHECK(op.rows.dtype == op.q.dtype || op.rows.scaled(), "the plane is {}", dtype_name(op.rows.dtype));
  check_slots(op.slots, n);
  backend.do_latent_input(op);
}

void latent_query(Backend& backend, const LatentQuery& op) {
  KEYE_CHECK(op.x.shape.rank() == 3 && op.latent.shape.rank() == 3 && op.cos.shape.rank() == 2, "x is {}, latent is {}",
             op.x.shape.to_string(), op.latent.shape.to_string());
  const int64_t n = op.x.shape[0];
  const int64_t h = op.x.shape[1];
  const int64_t r = op.latent.shape[2];
  const int64_t p = 2 * op.cos.shape[1];
  KEYE_CHECK(op.x.shape[2] >= p, "{} rotated elements of {}", p, op.x.shape[2]);
  check_view("x", op.x, op.x.shape, {DType::f32});
  check_view("latent", op.latent, {h, n, r}, {DType::f32, DType::bf16});
  check_view("cos", op.cos, {n, p / 2}, {DType::f32});
  check_view("sin", op.sin, {n, p / 2}, {DType::f32});
  check_view("q", op.q, {n, h, r + p}, {op.latent.dtype});
  backend.do_latent_query(op);
}

void swap_axes(Backend& backend, const SwapAxes& op) {
  KEYE_CHECK(op.x.shape.rank() == 3 && op.out.shape.rank() == 3 && op.out.shape[2] <= op.x.shape[2], "{} into {}",
             op.x.shape.to_string(), op.out.shape.to_string());
  check_view("x", op.x, op.x.shape, {DType::f32, DType::bf16});
  check_view("out", op.out, {op.x.shape[1], op.x.shape[0], op.out.shape[2]}, {DType::f32, DType::bf16});
  backend.do_swap_axes(op);
}

}  // namespace keye::ops
