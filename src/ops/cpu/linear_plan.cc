#include "ops/cpu/linear_plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "ops/cpu/linear_kernels.h"

namespace keye::ops {
namespace {

constexpr int kGroupMax = 16;
constexpr int kPartsMax = 8;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int tile_rows_max(Isa isa, DType dtype) {
  const bool split = dtype == DType::bf16 && isa != Isa::avx512_bf16;
  if (isa == Isa::avx2) return split ? kTileRowsAvx2Split : kTileRowsAvx2;
  return split ? kTileRowsAvx512Split : kTileRowsAvx512;
}

int64_t cache_bytes(int name, int64_t otherwise) {
  const long bytes = ::sysconf(name);
  return bytes > 0 ? bytes : otherwise;
}

}  // namespace

CpuInfo cpu_info(Isa isa, int threads) {
  static const int64_t l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, CpuInfo{}.l2_bytes);
  static const int64_t l3 = cache_bytes(_SC_LEVEL3_CACHE_SIZE, CpuInfo{}.l3_bytes);
  return {isa, threads, l2, l3};
}

LinearPlan plan_linear(const LinearShape& shape, const CpuInfo& cpu) {
  const int64_t lanes = kTileLanes;
  const bool bf16 = shape.dtype == DType::bf16;
  LinearPlan plan;
  plan.panels = shape.gated ? divide_up(shape.outputs / 2, lanes / 2) : divide_up(shape.outputs, lanes);
  plan.steps = bf16 ? divide_up(shape.inputs, 2) : shape.inputs;
  plan.block_rows = shape.rows;
  plan.pass_steps = plan.steps;

  // Tiles of nearly one size: a small last tile would wait on the latency of its few sums.
  const int rows_max = tile_rows_max(cpu.isa, shape.dtype);
  plan.tile_rows = static_cast<int>(divide_up(shape.rows, divide_up(shape.rows, rows_max)));
  plan.in_place = shape.rows <= kInPlaceRows && (!bf16 || shape.inputs % 2 == 0);
  if (plan.in_place) return plan;

  const int64_t row_bytes = plan.steps * static_cast<int64_t>(kRowStepBytes);
  const auto step_bytes = static_cast<int64_t>(kStepBytes);
  if (row_bytes * shape.rows > cpu.l2_bytes * 3 / 8) {
    // The rows do not stay in the second-level cache, so they stream, past a group of panels that does.
    const int64_t pass_max = std::max<int64_t>(64, cpu.l2_bytes / 5 / step_bytes);
    plan.pass_steps = divide_up(plan.steps, divide_up(plan.steps, pass_max));
    plan.group =
        static_cast<int>(std::clamp<int64_t>(cpu.l2_bytes * 2 / 3 / (plan.pass_steps * step_bytes), 1, kGroupMax));
  }
  // Packed rows stay in the third-level cache; unfinished sums, if there are several passes, in the second.
  int64_t block_max = cpu.l3_bytes / 4 / row_bytes;
  if (plan.passes() > 1) {
    block_max = std::min(block_max, cpu.l2_bytes / 2 / (plan.group * lanes * static_cast<int64_t>(sizeof(float))));
  }
  block_max = std::max<int64_t>(block_max, plan.tile_rows);
  plan.block_rows = divide_up(shape.rows, divide_up(shape.rows, block_max));
  plan.parts = static_cast<int>(std::clamp<int64_t>(plan.tiles(plan.block_rows) / 4, 1, kPartsMax));
  return plan;
}

std::string to_string(const LinearPlan& plan) {
  return fmt::format(
      "{} panels of {} steps in {} passes, tiles of {} rows {}, blocks of {} rows, groups of {}, parts of {}",
      plan.panels, plan.steps, plan.passes(), plan.tile_rows, plan.in_place ? "in place" : "packed", plan.block_rows,
      plan.group, plan.parts);
}

}  // namespace keye::ops
