#include "ops/moe.h"

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {

void moe_route(Backend& backend, const MoeRoute& op) {
  KEYE_CHECK(op.logits.shape.rank() == 2 && op.experts.shape.rank() == 2, "logits is {}, experts is {}",
             op.logits.shape.to_string(), op.experts.shape.to_string());
  const int64_t n = op.logits.shape[0];
  const int64_t k = op.experts.shape[1];
  KEYE_CHECK(1 <= k && k <= op.logits.shape[1], "{} of {} experts", k, op.logits.shape[1]);
  check_view("logits", op.logits, op.logits.shape, {DType::f32});
  check_view("experts", op.experts, {n, k}, {DType::i32});
  check_view("weights", op.weights, {n, k}, {DType::f32});
  if (op.score == RouterScore::sigmoid) {
    const int64_t e = op.logits.shape[1];
    KEYE_CHECK(backend.has_latent_attention(), "{}: no routing by sigmoid", backend.name());
    check_view("bias", op.bias, {e}, {DType::f32});
    KEYE_CHECK(
        1 <= op.groups_kept && op.groups_kept <= op.groups && e % op.groups == 0 && k <= e / op.groups * op.groups_kept,
        "{} experts of {} of {} groups", k, op.groups_kept, op.groups);
  } else {
    KEYE_CHECK(op.bias.empty() && op.groups == 1 && op.factor == 1, "a softmax has no bias, groups or factor");
  }
  backend.do_moe_route(op);
}

void moe_group(Backend& backend, const MoeGroup& op) {
  KEYE_CHECK(op.experts.shape.rank() == 2 && op.offsets.shape.rank() == 1 && op.offsets.shape[0] > 1,
             "experts is {}, offsets is {}", op.experts.shape.to_string(), op.offsets.shape.to_string());
  check_view("experts", op.experts, op.experts.shape, {DType::i32});
  check_view("rows", op.rows, {op.experts.elements()}, {DType::i32});
  check_view("offsets", op.offsets, op.offsets.shape, {DType::i32});
  check_view("places", op.places, op.experts.shape, {DType::i32});
  KEYE_CHECK(op.all == 0 ? op.first == 0 : backend.on_host(), "{}: experts elsewhere", backend.name());
  backend.do_moe_group(op);
}

void moe_combine(Backend& backend, const MoeCombine& op) {
  KEYE_CHECK(op.y.shape.rank() == 2 && op.places.shape.rank() == 2, "y is {}, places is {}", op.y.shape.to_string(),
             op.places.shape.to_string());
  check_view("y", op.y, op.y.shape, {DType::f32, backend.on_host() ? DType::f32 : DType::bf16});
  check_view("places", op.places, op.places.shape, {DType::i32});
  check_view("weights", op.weights, op.places.shape, {DType::f32});
  check_view("out", op.out, {op.places.shape[0], op.y.shape[1]}, {DType::f32});
  if (!backend.on_host()) return backend.do_moe_combine(op);
  for (const int32_t place : std::span(op.places.as<int32_t>(), static_cast<size_t>(op.places.elements()))) {
    KEYE_CHECK(-1 <= place && place < op.y.shape[0], "place {} of {}", place, op.y.shape[0]);
  }
  backend.do_moe_combine(op);
}

}  // namespace keye::ops
