#include "ops/vision.h"

#include <fmt/format.h>

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

TEST(Vision, PositionGridIsPyTorchs) {
  const Golden golden;
  for (const auto& [rows, cols] : {std::pair{12, 46}, {27, 27}, {2, 60}}) {
    const std::string name = fmt::format("grid_{}x{}", rows, cols);
    for (const auto& backend : cpu_backends()) {
      Tensor x(DType::f32, golden[name + ".out"].shape);
      add_position_grid(*backend, {.table = golden[name + ".table"], .rows = rows, .cols = cols, .x = x.view()});
      EXPECT_LE(difference(x.view(), golden[name + ".out"]), 1e-6F) << backend->name() << " " << name;
    }
  }
}

TEST(Vision, PositionGridOfItsOwnSizeIsTheTable) {
  const Golden golden;
  const ConstView table = golden["grid_27x27.table"];
  for (const auto& backend : cpu_backends()) {
    Tensor x(DType::f32, table.shape);
    add_position_grid(*backend, {.table = table, .rows = 27, .cols = 27, .x = x.view()});
    EXPECT_TRUE(same_bits(x.view(), table)) << backend->name();
  }
}

TEST(Vision, PositionGridGivesTheReferencesBits) {
  for (const int64_t c : {1, 24, 77}) {
    const Tensor table = random_tensor({81, c}, 1);
    const auto added = [&](Backend& backend) {
      Tensor x = random_tensor({22 * 34, c}, 2);
      add_position_grid(backend, {.table = table.view(), .rows = 22, .cols = 34, .x = x.view()});
      return x;
    };
    const Tensor expected = added(*make_ref_backend());
    for (const auto& backend : cpu_backends()) {
      EXPECT_TRUE(same_bits(added(*backend).view(), expected.view())) << backend->name() << " " << c;
    }
  }
}

TEST(Vision, MergePatchesIsPyTorchs) {
  const Golden golden;
  for (const auto& backend : cpu_backends()) {
    Tensor out(DType::f32, {6, 12});
    merge_patches(*backend, {.x = golden["merge_6x4.x"], .rows = 6, .cols = 4, .merge = 2, .out = out.view()});
    EXPECT_TRUE(same_bits(out.view(), golden["merge_6x4.out"])) << backend->name();
  }
}

TEST(Vision, MergePatchesInManyRanges) {
  const Tensor x = random_tensor({30 * 60, 40}, 1);
  const auto merged = [&](Backend& backend) {
    Tensor out(DType::f32, {200, 360});
    merge_patches(backend, {.x = x.view(), .rows = 30, .cols = 60, .merge = 3, .out = out.view()});
    return out;
  };
  const Tensor expected = merged(*make_ref_backend());
  EXPECT_EQ(expected.as<float>()[40 * 3], x.as<float>()[60 * 40]) << "a block's second row follows its first";
  for (const auto& backend : cpu_backends()) EXPECT_TRUE(same_bits(merged(*backend).view(), expected.view()));
}

TEST(VisionDeath, RefusesAGridThatIsNotWholeBlocks) {
  const auto backend = make_ref_backend();
  Tensor x(DType::f32, {6, 1});
  EXPECT_DEATH(merge_patches(*backend, {.x = x.view(), .rows = 3, .cols = 2, .merge = 2, .out = x.view()}), "3 x 2");
}

}  // namespace
}  // namespace keye::ops
