#include "ops/cpu/linear_plan.h"

#include <gtest/gtest.h>

#include "ops/cpu/limits.h"
#include "ops/cpu/linear_kernels.h"

namespace keye::ops {
namespace {

constexpr CpuInfo kCpu{Isa::avx512_bf16, 2, 1 << 20, 32 << 20};

TEST(LinearPlanTest, FewRowsAreReadInPlace) {
  const LinearPlan plan = plan_linear({1, 1024, 4096, false, DType::bf16}, kCpu);
  EXPECT_TRUE(plan.in_place);
  EXPECT_EQ(plan.panels, 128);
  EXPECT_EQ(plan.steps, 512);
  EXPECT_EQ(plan.tile_rows, 1);
  EXPECT_FALSE(plan_linear({1, 1023, 4096, false, DType::bf16}, kCpu).in_place);  // the last pair must be filled up
  EXPECT_TRUE(plan_linear({1, 1023, 4096, false, DType::f32}, kCpu).in_place);
}

TEST(LinearPlanTest, TilesAreOfNearlyOneSize) {
  EXPECT_EQ(plan_linear({16, 64, 64, false, DType::bf16}, kCpu).tile_rows, 8);
  EXPECT_EQ(plan_linear({512, 1024, 1024, false, DType::bf16}, kCpu).tile_rows, 14);
  EXPECT_EQ(plan_linear({29, 64, 64, false, DType::bf16}, kCpu).tile_rows, 10);
}

TEST(LinearPlanTest, EveryPlanKeepsItsBounds) {
  for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const int64_t rows : {1, 2, 8, 9, 14, 15, 64, 512, 5184, 8192}) {
        for (const int64_t inputs : {1, 64, 1152, 4304, 18944}) {
          const CpuInfo cpu{isa, 2, kCpu.l2_bytes, kCpu.l3_bytes};
          const LinearPlan plan = plan_linear({rows, inputs, 100, true, dtype}, cpu);
          SCOPED_TRACE(to_string(plan));
          EXPECT_EQ(plan.panels, 4);
          EXPECT_GE(plan.tile_rows, 1);
          EXPECT_LE(plan.tile_rows, kTileRowsMax);
          EXPECT_GE(plan.block_rows, 1);
          EXPECT_LE(plan.block_rows, rows);
          EXPECT_GE(plan.pass_steps * plan.passes(), plan.steps);
          EXPECT_LT(plan.pass_steps * (plan.passes() - 1), plan.steps);
          EXPECT_GE(plan.group, 1);
          EXPECT_GE(plan.parts, 1);
          EXPECT_LE(plan.parts, plan.tiles(plan.block_rows));
          if (!plan.in_place && rows > kTileRowsMax) {
            const int64_t packed = plan.block_rows * plan.steps * 4;
            EXPECT_TRUE(packed <= cpu.l3_bytes / 4 || plan.block_rows <= plan.tile_rows) << packed;
          }
        }
      }
    }
  }
}

TEST(LinearPlanTest, PrintsItself) {
  EXPECT_EQ(
      to_string(plan_linear({512, 3072, 1024, false, DType::bf16}, kCpu)),
      "32 panels of 1536 steps in 1 passes, tiles of 14 rows packed, blocks of 512 rows, groups of 3, parts of 8");
}

TEST(MachineLimitsTest, AreMeasured) {
  ThreadPool pool(2);
  const MachineLimits limits = measure_limits(pool, best_isa(), 0.02);
  EXPECT_GT(limits.read_bytes_per_s, 1e8);
  EXPECT_GT(limits.bf16_flops, 1e8);
  EXPECT_GT(limits.f32_flops, 1e8);
}

TEST(MachineLimitsTest, NeedNoKernels) {
  ThreadPool pool(1);
  const MachineLimits limits = measure_limits(pool, Isa::scalar, 0.01);
  EXPECT_GT(limits.read_bytes_per_s, 1e8);
  EXPECT_GT(limits.bf16_flops, 1e7);
  EXPECT_GT(limits.f32_flops, 1e7);
}

}  // namespace
}  // namespace keye::ops
