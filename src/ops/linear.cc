#include "ops/linear.h"

#include "ops/backend.h"

namespace keye::ops {
namespace {

bool is_element(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

void check_matrix(const PackedMatrix& w) {
  KEYE_CHECK(is_element(w.dtype), "weights are {}", dtype_name(w.dtype));
  KEYE_CHECK(w.outputs > 0 && w.inputs > 0 && !w.empty(), "weights are [{}, {}]", w.outputs, w.inputs);
  KEYE_CHECK(w.data.size() >= static_cast<size_t>(w.panels()) * w.panel_bytes(), "weights hold {} bytes",
             w.data.size());
}

void check_product(const ConstView& x, const PackedMatrix& w, Activation activation, const View& out, int64_t n) {
  check_matrix(w);
  KEYE_CHECK(x.shape.rank() == 2 && x.shape[1] == w.inputs, "x is {}, the weights have {} inputs", x.shape.to_string(),
             w.inputs);
  KEYE_CHECK(x.dtype == w.dtype, "x is {}, the weights are {}", dtype_name(x.dtype), dtype_name(w.dtype));
  KEYE_CHECK((activation == Activation::silu_mul) == w.gated, "silu_mul goes with gated weights, and only with them");
  const int64_t columns = w.gated ? w.outputs / 2 : w.outputs;
  KEYE_CHECK(out.shape == Shape({n, columns}), "out is {}, expected [{}, {}]", out.shape.to_string(), n, columns);
  KEYE_CHECK(is_element(out.dtype), "out is {}", dtype_name(out.dtype));
}

}  // namespace

PackedMatrix pack(Backend& backend, const PackMatrix& source) {
  KEYE_CHECK(is_element(source.dtype), "cannot pack to {}", dtype_name(source.dtype));
  KEYE_CHECK(!source.blocks.empty());
  const StridedMatrix& first = source.blocks.front();
  for (const StridedMatrix& block : source.blocks) {
    KEYE_CHECK(block.dtype == DType::f32 || block.dtype == DType::f16 || block.dtype == DType::bf16,
               "cannot pack from {}", dtype_name(block.dtype));
    KEYE_CHECK(block.data != nullptr && block.rows > 0 && block.cols > 0, "block of [{}, {}]", block.rows, block.cols);
    KEYE_CHECK(block.cols == first.cols, "blocks of {} and {} columns", first.cols, block.cols);
  }
  if (source.gated) {
    KEYE_CHECK(source.blocks.size() == 2 && source.blocks[1].rows == first.rows, "gate and up must have one shape");
  }
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
  const auto places = static_cast<int64_t>(op.rows.size());
  KEYE_CHECK(op.offsets.size() == op.w.size() + 1, "{} offsets for {} groups", op.offsets.size(), op.w.size());
  KEYE_CHECK(op.offsets.front() == 0 && op.offsets.back() == places, "offsets end at {}, there are {} rows",
             op.offsets.back(), places);
  for (size_t e = 0; e < op.w.size(); ++e) {
    KEYE_CHECK(op.offsets[e] <= op.offsets[e + 1], "offsets of group {} fall", e);
    if (op.offsets[e] == op.offsets[e + 1]) continue;
    const PackedMatrix& w = op.w[e];
    check_product(op.x, w, op.activation, op.out, places);
    KEYE_CHECK(w.outputs == op.w[0].outputs && w.gated == op.w[0].gated, "group {} has another shape", e);
  }
  for (const int32_t row : op.rows) KEYE_CHECK(0 <= row && row < op.x.shape[0], "row {} of {}", row, op.x.shape[0]);
  if (places > 0) backend.do_grouped_linear(op);
}

}  // namespace keye::ops
