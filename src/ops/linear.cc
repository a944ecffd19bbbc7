#include "ops/linear.h"

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {
namespace {

bool is_element(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

void check_matrix(const PackedMatrix& w) {
  KEYE_CHECK(is_element(w.dtype) || w.dtype == DType::f8_e4m3, "weights are {}", dtype_name(w.dtype));
  KEYE_CHECK(w.outputs > 0 && w.inputs > 0 && !w.empty(), "weights are [{}, {}]", w.outputs, w.inputs);
  KEYE_CHECK(w.data.size() >= static_cast<size_t>(w.outputs * w.inputs) * dtype_bytes(w.dtype), "weights hold {} bytes",
             w.data.size());
}

void check_product(const ConstView& x, const PackedMatrix& w, Activation activation, const View& out, int64_t n) {
  check_matrix(w);
  KEYE_CHECK(x.shape.rank() == 2 && x.shape[1] == w.inputs, "x is {}, the weights have {} inputs", x.shape.to_string(),
             w.inputs);
  KEYE_CHECK(x.dtype == w.dtype || (w.dtype == DType::f8_e4m3 && is_element(x.dtype)), "x is {}, the weights are {}",
             dtype_name(x.dtype), dtype_name(w.dtype));
  KEYE_CHECK((activation == Activation::silu_mul) == w.gated, "silu_mul goes with gated weights, and only with them");
  const int64_t columns = w.gated ? w.outputs / 2 : w.outputs;
  KEYE_CHECK(out.shape == Shape({n, columns}), "out is {}, expected [{}, {}]", out.shape.to_string(), n, columns);
  KEYE_CHECK(is_element(out.dtype), "out is {}", dtype_name(out.dtype));
}

/// The numbers themselves, where the host can read them.
void check_groups(const GroupedLinear& op, int64_t places) {
  const auto* offsets = op.offsets.as<int32_t>();
  KEYE_CHECK(offsets[0] == 0 && offsets[op.w.size()] == places, "offsets end at {}, there are {} rows",
             offsets[op.w.size()], places);
  for (size_t e = 0; e < op.w.size(); ++e) {
    KEYE_CHECK(offsets[e] <= offsets[e + 1], "offsets of group {} fall", e);
  }
  if (op.rows.empty()) return;
  for (int64_t p = 0; p < places; ++p) {
    const int32_t row = op.rows.as<int32_t>()[p];
    KEYE_CHECK(0 <= row && row < op.x.shape[0], "row {} of {}", row, op.x.shape[0]);
  }
}

}  // namespace

PackedMatrix pack(Backend& backend, const PackMatrix& source) {
  const bool keeps_blocks = source.dtype == DType::f8_e4m3;
  KEYE_CHECK(is_element(source.dtype) || (keeps_blocks && backend.keeps_blocks()), "cannot pack to {}",
             dtype_name(source.dtype));
  KEYE_CHECK(!source.blocks.empty());
  const StridedMatrix& first = source.blocks.front();
  for (const StridedMatrix& block : source.blocks) {
    KEYE_CHECK(block.dtype == DType::f32 || block.dtype == DType::f16 || block.dtype == DType::bf16 || keeps_blocks,
               "cannot pack from {}", dtype_name(block.dtype));
    KEYE_CHECK(block.data != nullptr && block.rows > 0 && block.cols > 0, "block of [{}, {}]", block.rows, block.cols);
    KEYE_CHECK(block.cols == first.cols, "blocks of {} and {} columns", first.cols, block.cols);
  }
  if (source.gated) {
    KEYE_CHECK(source.blocks.size() == 2 && source.blocks[1].rows == first.rows, "gate and up must have one shape");
  }
  KEYE_CHECK(!keeps_blocks || can_keep_blocks(source.blocks, source.gated), "a half panel with several factors");
  return backend.do_pack(source);
}

void linear(Backend& backend, const Linear& op) {
  const int64_t n = op.x.shape[0];
  check_product(op.x, op.w, op.activation, op.out, n);
  if (!op.bias.empty()) {
    KEYE_CHECK(op.bias.dtype == DType::f32 && op.bias.shape == Shape({op.w.outputs}), "bias is {}, expected [{}]",
               op.bias.shape.to_string(), op.w.outputs);
  }
  KEYE_CHECK(!op.accumulate || op.out.dtype == DType::f32, "only f32 accumulates");
  if (n > 0) backend.do_linear(op);
}

void grouped_linear(Backend& backend, const GroupedLinear& op) {
  const int64_t places = op.out.shape[0];
  check_view("offsets", op.offsets, {static_cast<int64_t>(op.w.size()) + 1}, {DType::i32});
  if (op.rows.empty()) {
    KEYE_CHECK(op.x.shape[0] == places, "{} rows of x for {} of out", op.x.shape[0], places);
  } else {
    check_view("rows", op.rows, {places}, {DType::i32});
  }
  for (const PackedMatrix& w : op.w) {
    check_product(op.x, w, op.activation, op.out, places);
    KEYE_CHECK(w.outputs == op.w[0].outputs && w.gated == op.w[0].gated, "the groups' matrices differ in shape");
  }
  if (backend.on_host()) check_groups(op, places);
  if (places > 0) backend.do_grouped_linear(op);
}

}  // namespace keye::ops
