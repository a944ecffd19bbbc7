#include "ops/vision.h"

#include "ops/backend.h"
#include "ops/check_view.h"
#include "ops/ref/grid_tap.h"

namespace keye::ops {

void add_position_grid(Backend& backend, const AddPositionGrid& op) {
  KEYE_CHECK(op.rows > 0 && op.cols > 0, "a grid of {} x {}", op.rows, op.cols);
  KEYE_CHECK(op.table.shape.rank() == 2, "table is {}, expected [side * side, c]", op.table.shape.to_string());
  const int64_t side = grid_side(op.table.shape[0]);
  KEYE_CHECK(side > 0 && side * side == op.table.shape[0], "table of {} rows is not square", op.table.shape[0]);
  check_view("table", op.table, op.table.shape, {DType::f32});
  check_view("x", op.x, {int64_t{op.rows} * op.cols, op.table.shape[1]}, {DType::f32});
  backend.do_add_position_grid(op);
}

void merge_patches(Backend& backend, const MergePatches& op) {
  KEYE_CHECK(op.merge > 0 && op.rows > 0 && op.cols > 0 && op.rows % op.merge == 0 && op.cols % op.merge == 0,
             "blocks of {} x {} in a grid of {} x {}", op.merge, op.merge, op.rows, op.cols);
  KEYE_CHECK(op.x.shape.rank() == 2, "x is {}, expected [rows * cols, c]", op.x.shape.to_string());
  const int64_t c = op.x.shape[1];
  const int64_t block = int64_t{op.merge} * op.merge;
  const int64_t patches = int64_t{op.rows} * op.cols;
  check_view("x", op.x, {patches, c}, {DType::f32});
  check_view("out", op.out, {patches / block, block * c}, {DType::f32});
  backend.do_merge_patches(op);
}

}  // namespace keye::ops
