#include "ops/norm.h"

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

constexpr float kEps = 1e-6F;

struct Row {
  Tensor x, weight, bias;
  explicit Row(int64_t n, int64_t c, uint32_t seed)
      : x(random_tensor({n, c}, seed, 3.0F)),
        weight(random_tensor({c}, seed + 1)),
        bias(random_tensor({c}, seed + 2)) {}

  Tensor rms(Backend& backend, const ConstView& rows, DType dtype) const {
    Tensor out(dtype, rows.shape);
    rms_norm(backend, {.x = rows, .weight = weight.view(), .eps = kEps, .out = out.view()});
    return out;
  }
  Tensor layer(Backend& backend, const ConstView& rows, DType dtype) const {
    Tensor out(dtype, rows.shape);
    layer_norm(backend, {.x = rows, .weight = weight.view(), .bias = bias.view(), .eps = kEps, .out = out.view()});
    return out;
  }
};

TEST(Norm, ReferenceIsPyTorchs) {
  const Golden golden;
  const auto backend = make_ref_backend();
  const ConstView x = golden["rms_norm.x"];
  Tensor out(DType::f32, x.shape);
  rms_norm(*backend, {.x = x, .weight = golden["rms_norm.weight"], .eps = kEps, .out = out.view()});
  EXPECT_LE(difference(out.view(), golden["rms_norm.out"]), 1e-6F);

  Tensor narrow(DType::bf16, x.shape);
  rms_norm(*backend, {.x = x, .weight = golden["rms_norm.weight"], .eps = kEps, .out = narrow.view()});
  for (int64_t i = 0; i < x.elements(); ++i) {
    const auto expected = static_cast<float>(golden["rms_norm.out_bf16"].as<BFloat16>()[i]);
    EXPECT_NEAR(static_cast<float>(narrow.as<BFloat16>()[i]), expected, std::abs(expected) * 0x1p-7F);
  }

  // The second row lies around 1000 with a spread of 300, the third has a variance near eps.
  layer_norm(*backend, {.x = golden["layer_norm.x"],
                        .weight = golden["layer_norm.weight"],
                        .bias = golden["layer_norm.bias"],
                        .eps = kEps,
                        .out = out.view()});
  EXPECT_LE(difference(out.view(), golden["layer_norm.out"]), 3e-6F);
}

TEST(Norm, ByHand) {
  const auto backend = make_ref_backend();
  float x[] = {3.0F, 4.0F};
  float weight[] = {1.0F, 10.0F};
  float bias[] = {0.5F, 0.0F};
  Tensor out(DType::f32, {1, 2});
  const ConstView row{x, DType::f32, {1, 2}};
  rms_norm(*backend, {.x = row, .weight = {weight, DType::f32, {2}}, .eps = 0.0F, .out = out.view()});
  EXPECT_FLOAT_EQ(out.as<float>()[0], 3.0F / std::sqrt(12.5F));
  EXPECT_FLOAT_EQ(out.as<float>()[1], 40.0F / std::sqrt(12.5F));
  layer_norm(
      *backend,
      {.x = row, .weight = {weight, DType::f32, {2}}, .bias = {bias, DType::f32, {2}}, .eps = 0.0F, .out = out.view()});
  EXPECT_FLOAT_EQ(out.as<float>()[0], -0.5F);
  EXPECT_FLOAT_EQ(out.as<float>()[1], 10.0F);
}

TEST(Norm, EveryBackendGivesTheReferencesBits) {
  const auto ref = make_ref_backend();
  const auto backends = cpu_backends();
  for (const int64_t c : {1, 5, 15, 16, 17, 63, 64, 65, 100, 128, 1000, 1152, 4096}) {
    const Row row(7, c, static_cast<uint32_t>(c));
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor rms = row.rms(*ref, row.x.view(), dtype);
      const Tensor layer = row.layer(*ref, row.x.view(), dtype);
      for (const auto& backend : backends) {
        EXPECT_TRUE(same_bits(row.rms(*backend, row.x.view(), dtype).view(), rms.view()))
            << backend->name() << " " << c;
        EXPECT_TRUE(same_bits(row.layer(*backend, row.x.view(), dtype).view(), layer.view()))
            << backend->name() << " " << c;
      }
    }
  }
}

TEST(Norm, ARowDoesNotDependOnItsBatch) {
  // 200 rows of 1152 are enough for several ranges of rows.
  const Row row(200, 1152, 1);
  for (const auto& backend : cpu_backends()) {
    const Tensor rms = row.rms(*backend, row.x.view(), DType::f32);
    const Tensor layer = row.layer(*backend, row.x.view(), DType::f32);
    for (const int64_t t : {0, 1, 113, 199}) {
      const ConstView alone = rows(row.x.view(), t, t + 1);
      EXPECT_TRUE(same_bits(row.rms(*backend, alone, DType::f32).view(), rows(rms.view(), t, t + 1)));
      EXPECT_TRUE(same_bits(row.layer(*backend, alone, DType::f32).view(), rows(layer.view(), t, t + 1)));
    }
  }
}

TEST(Norm, InPlace) {
  for (const auto& backend : cpu_backends()) {
    Row row(9, 130, 4);
    const Tensor expected = row.rms(*backend, row.x.view(), DType::f32);
    rms_norm(*backend, {.x = row.x.view(), .weight = row.weight.view(), .eps = kEps, .out = row.x.view()});
    EXPECT_TRUE(same_bits(row.x.view(), expected.view())) << backend->name();
  }
}

TEST(NormDeath, RefusesMismatchedShapes) {
  const auto backend = make_ref_backend();
  Tensor x(DType::f32, {2, 8});
  Tensor weight(DType::f32, {7});
  EXPECT_DEATH(rms_norm(*backend, {.x = x.view(), .weight = weight.view(), .eps = kEps, .out = x.view()}),
               "weight is \\[7\\], expected \\[8\\]");
}

}  // namespace
}  // namespace keye::ops
