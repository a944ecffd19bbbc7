#include <cstring>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/row_dispatch.h"
#include "ops/ref/grid_tap.h"

namespace keye::ops {
namespace {

const std::byte* row_of(const ConstView& view, int64_t row, int64_t row_bytes) {
  return view.as<std::byte>() + row * row_bytes;
}

}  // namespace

void CpuBackend::do_embed(const Embed& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_embed(op);
  const int64_t c = op.table.shape[1];
  const int64_t row_bytes = c * static_cast<int64_t>(dtype_bytes(op.table.dtype));
  for_each_range(pool_, op.out.shape[0], 8 * c, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      copy_elements(*kernels, op.table.dtype, row_of(op.table, op.tokens[static_cast<size_t>(t)], row_bytes),
                    DType::f32, op.out.as<float>() + t * c, c);
    }
  });
}

void CpuBackend::do_copy_rows(const CopyRows& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_copy_rows(op);
  const int64_t c = op.x.shape[1];
  const int64_t from_bytes = c * static_cast<int64_t>(dtype_bytes(op.x.dtype));
  const int64_t to_bytes = c * static_cast<int64_t>(dtype_bytes(op.out.dtype));
  for_each_range(pool_, static_cast<int64_t>(op.from.size()), from_bytes + to_bytes,
                 [&](int64_t begin, int64_t end, int) {
                   for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
                     copy_elements(*kernels, op.x.dtype, row_of(op.x, op.from[i], from_bytes), op.out.dtype,
                                   op.out.as<std::byte>() + op.to[i] * to_bytes, c);
                   }
                 });
}

void CpuBackend::do_convert(const Convert& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_convert(op);
  const auto from_bytes = static_cast<int64_t>(dtype_bytes(op.x.dtype));
  const auto to_bytes = static_cast<int64_t>(dtype_bytes(op.out.dtype));
  for_each_range(pool_, op.x.elements(), from_bytes + to_bytes, [&](int64_t begin, int64_t end, int) {
    copy_elements(*kernels, op.x.dtype, row_of(op.x, begin, from_bytes), op.out.dtype,
                  op.out.as<std::byte>() + begin * to_bytes, end - begin);
  });
}

void CpuBackend::do_rope_table(const RopeTable& op) {
  // A sine costs about as much as streaming 64 bytes, and every pair needs two.
  const auto pairs = op.inv_freq.elements();
  for_each_range(pool_, static_cast<int64_t>(op.positions[0].size()), 128 * pairs,
                 [&](int64_t begin, int64_t end, int) {
                   RopeTable part = op;
                   for (auto& axis : part.positions)
                     axis = axis.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
                   part.cos = rows(op.cos, begin, end);
                   part.sin = rows(op.sin, begin, end);
                   RefBackend::do_rope_table(part);
                 });
}

void CpuBackend::do_add_position_grid(const AddPositionGrid& op) {
  const RowKernels* kernels = row_kernels(isa_);
  if (kernels == nullptr) return RefBackend::do_add_position_grid(op);
  const int64_t c = op.table.shape[1];
  const int64_t side = grid_side(op.table.shape[0]);
  const auto at = [&](int64_t row, int64_t col) { return op.table.as<float>() + (row * side + col) * c; };
  for_each_range(pool_, op.rows, 8 * c * op.cols, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const GridTap y = grid_tap(side, r, op.rows);
      for (int64_t col = 0; col < op.cols; ++col) {
        const GridTap x = grid_tap(side, col, op.cols);
        const float* const corners[4] = {at(y.low, x.low), at(y.low, x.high), at(y.high, x.low), at(y.high, x.high)};
        kernels->add_bilinear(corners, x.fraction, y.fraction, c, op.x.as<float>() + (r * op.cols + col) * c);
      }
    }
  });
}

void CpuBackend::do_merge_patches(const MergePatches& op) {
  const int64_t block_rows = op.rows / op.merge;
  const int64_t blocks_per_row = op.cols / op.merge;
  const int64_t block_row_bytes = 8 * op.merge * op.cols * op.x.shape[1];
  for_each_range(pool_, block_rows, block_row_bytes, [&](int64_t begin, int64_t end, int) {
    MergePatches part = op;
    part.rows = static_cast<int>(end - begin) * op.merge;
    part.x = rows(op.x, begin * op.merge * op.cols, end * op.merge * op.cols);
    part.out = rows(op.out, begin * blocks_per_row, end * blocks_per_row);
    RefBackend::do_merge_patches(part);
  });
}

}  // namespace keye::ops
