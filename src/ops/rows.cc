#include "ops/rows.h"

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {
namespace {

void check_indices(const char* what, std::span<const int32_t> indices, int64_t limit) {
  for (const int32_t index : indices) {
    KEYE_CHECK(0 <= index && index < limit, "{} holds {}, expected [0, {})", what, index, limit);
  }
}

void check_matrix(const char* what, const ConstView& view, std::initializer_list<DType> dtypes) {
  KEYE_CHECK(view.shape.rank() == 2, "{} is {}, expected a matrix", what, view.shape.to_string());
  check_view(what, view, view.shape, dtypes);
}

}  // namespace

void embed(Backend& backend, const Embed& op) {
  check_matrix("table", op.table, {DType::f32, DType::f16, DType::bf16});
  check_view("out", op.out, {static_cast<int64_t>(op.tokens.size()), op.table.shape[1]}, {DType::f32});
  check_indices("tokens", op.tokens, op.table.shape[0]);
  backend.do_embed(op);
}

void copy_rows(Backend& backend, const CopyRows& op) {
  check_matrix("x", op.x, {DType::f32, DType::bf16});
  check_matrix("out", op.out, {DType::f32, DType::bf16});
  KEYE_CHECK(op.x.shape[1] == op.out.shape[1], "rows of {} into rows of {}", op.x.shape[1], op.out.shape[1]);
  KEYE_CHECK(op.from.size() == op.to.size(), "{} rows from, {} to", op.from.size(), op.to.size());
  check_indices("from", op.from, op.x.shape[0]);
  check_indices("to", op.to, op.out.shape[0]);
  backend.do_copy_rows(op);
}

void convert(Backend& backend, const Convert& op) {
  check_view("x", op.x, op.x.shape, {DType::f32, DType::bf16});
  check_view("out", op.out, op.out.shape, {DType::f32, DType::bf16});
  KEYE_CHECK(op.x.elements() == op.out.elements(), "{} into {}", op.x.shape.to_string(), op.out.shape.to_string());
  backend.do_convert(op);
}

}  // namespace keye::ops
