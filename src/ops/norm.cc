#include "ops/norm.h"

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {
namespace {

void check_rows(const ConstView& x, float eps, const ConstView& out) {
  KEYE_CHECK(x.shape.rank() == 2 && x.shape[1] > 0, "x is {}, expected [n, c]", x.shape.to_string());
  KEYE_CHECK(eps >= 0.0F, "eps is {}", eps);
  check_view("x", x, x.shape, {DType::f32});
  check_view("out", out, x.shape, {DType::f32, DType::bf16});
}

}  // namespace

void rms_norm(Backend& backend, const RmsNorm& op) {
  check_rows(op.x, op.eps, op.out);
  check_view("weight", op.weight, {op.x.shape[1]}, {DType::f32});
  if (!op.exact.empty()) check_view("exact", op.exact, op.x.shape, {DType::f32});
  backend.do_rms_norm(op);
}

void layer_norm(Backend& backend, const LayerNorm& op) {
  check_rows(op.x, op.eps, op.out);
  check_view("weight", op.weight, {op.x.shape[1]}, {DType::f32});
  check_view("bias", op.bias, {op.x.shape[1]}, {DType::f32});
  backend.do_layer_norm(op);
}

}  // namespace keye::ops
