#include "ops/moe.h"

#include <limits>

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

struct Routed {
  Tensor experts, weights;
};

Routed route(Backend& backend, const ConstView& logits, int64_t k, bool normalise) {
  const int64_t n = logits.shape[0];
  Routed result{Tensor(DType::i32, {n, k}), Tensor(DType::f32, {n, k})};
  moe_route(
      backend,
      {.logits = logits, .normalise = normalise, .experts = result.experts.view(), .weights = result.weights.view()});
  return result;
}

TEST(Moe, RouteIsPyTorchs) {
  const Golden golden;
  for (const auto& backend : cpu_backends()) {
    for (const bool normalise : {false, true}) {
      const Routed got = route(*backend, golden["moe_route.logits"], 8, normalise);
      EXPECT_TRUE(same_bits(got.experts.view(), golden["moe_route.experts"])) << backend->name();
      const ConstView weights = golden[normalise ? "moe_route.normalised" : "moe_route.weights"];
      EXPECT_LE(difference(got.weights.view(), weights), 1e-6F) << backend->name();
    }
  }
}

TEST(Moe, TiesGoToTheLowerExpert) {
  const auto backend = make_ref_backend();
  float logits[] = {1.0F, 2.0F, 2.0F, 1.0F, 2.0F};
  const Routed got = route(*backend, {logits, DType::f32, {1, 5}}, 4, true);
  const int32_t expected[] = {1, 2, 4, 0};
  EXPECT_EQ(std::memcmp(got.experts.as<int32_t>(), expected, sizeof expected), 0);
  float sum = 0.0F;
  for (int j = 0; j < 4; ++j) sum += got.weights.as<float>()[j];
  EXPECT_FLOAT_EQ(sum, 1.0F);
}

/// DeepSeek-V3's choice written out: 8 experts in 4 groups.
TEST(Moe, GroupsAreRankedByTheirTwoBest) {
  const auto backend = make_ref_backend();
  // Sigmoids near 0.9 and 0.02, 0.5 and 0.5, 0.73 and 0.27, 0.12 and 0.12: the second group beats the first.
  const float logits[] = {2.2F, -4.0F, 0.0F, 0.0F, 1.0F, -1.0F, -2.0F, -2.0F};
  const float no_bias[8] = {};
  const auto choose = [&](const float* bias, int kept, int k, bool normalise, float factor) {
    Routed result{Tensor(DType::i32, {1, k}), Tensor(DType::f32, {1, k})};
    moe_route(*backend, {.logits = {logits, DType::f32, {1, 8}},
                         .normalise = normalise,
                         .experts = result.experts.view(),
                         .weights = result.weights.view(),
                         .score = RouterScore::sigmoid,
                         .bias = {bias, DType::f32, {8}},
                         .groups = 4,
                         .groups_kept = kept,
                         .factor = factor});
    return result;
  };
  const auto ids = [](const Routed& routed) {
    const int32_t* experts = routed.experts.as<int32_t>();
    return std::vector<int32_t>(experts, experts + routed.experts.shape().elements());
  };
  EXPECT_EQ(ids(choose(no_bias, 1, 2, false, 1)), (std::vector<int32_t>{2, 3}));  // 1.0 and 1.0: the first of equals
  EXPECT_EQ(ids(choose(no_bias, 2, 2, false, 1)), (std::vector<int32_t>{4, 2}));
  EXPECT_EQ(ids(choose(no_bias, 4, 3, false, 1)), (std::vector<int32_t>{0, 4, 2}));
  // A bias chooses, and does not weigh.
  const float bias[] = {0, 0, 0, 0, 0, 0, 5.0F, 0};
  const Routed biased = choose(bias, 1, 2, true, 2.5F);
  EXPECT_EQ(ids(biased), (std::vector<int32_t>{6, 7}));
  for (int j = 0; j < 2; ++j) EXPECT_FLOAT_EQ(biased.weights.as<float>()[j], 1.25F);
  EXPECT_FLOAT_EQ(choose(bias, 1, 1, false, 2.5F).weights.as<float>()[0], 2.5F / (1 + std::exp(2.0F)));
}

TEST(Moe, ASigmoidRouteDoesNotDependOnItsBatch) {
  const Tensor logits = random_tensor({150, 256}, 2, 4.0F);
  const Tensor bias = random_tensor({256}, 3, 0.1F);
  const auto choose = [&](Backend& on, int64_t begin, int64_t end) {
    Routed result{Tensor(DType::i32, {end - begin, 8}), Tensor(DType::f32, {end - begin, 8})};
    moe_route(on, {.logits = rows(logits.view(), begin, end),
                   .normalise = true,
                   .experts = result.experts.view(),
                   .weights = result.weights.view(),
                   .score = RouterScore::sigmoid,
                   .bias = bias.view(),
                   .groups = 8,
                   .groups_kept = 4,
                   .factor = 2.5F});
    return result;
  };
  const Routed expected = choose(*make_ref_backend(), 0, 150);
  for (const auto& backend : cpu_backends()) {
    const Routed whole = choose(*backend, 0, 150);
    EXPECT_TRUE(same_bits(whole.experts.view(), expected.experts.view())) << backend->name();
    EXPECT_TRUE(same_bits(whole.weights.view(), expected.weights.view())) << backend->name();
    const Routed alone = choose(*backend, 77, 78);
    EXPECT_TRUE(same_bits(alone.weights.view(), rows(expected.weights.view(), 77, 78))) << backend->name();
  }
}

TEST(Moe, ANanStillNamesDistinctExperts) {
  const auto backend = make_ref_backend();
  float logits[] = {1.0F, std::numeric_limits<float>::quiet_NaN(), 3.0F};
  const Routed got = route(*backend, {logits, DType::f32, {1, 3}}, 2, true);
  const int32_t* experts = got.experts.as<int32_t>();
  EXPECT_NE(experts[0], experts[1]);
  for (int j = 0; j < 2; ++j) EXPECT_TRUE(0 <= experts[j] && experts[j] < 3);
}

TEST(Moe, ARowsRouteDoesNotDependOnItsBatch) {
  const Tensor logits = random_tensor({150, 61}, 2, 4.0F);
  const Routed expected = route(*make_ref_backend(), logits.view(), 6, true);
  for (const auto& backend : cpu_backends()) {
    const Routed whole = route(*backend, logits.view(), 6, true);
    EXPECT_TRUE(same_bits(whole.experts.view(), expected.experts.view())) << backend->name();
    EXPECT_TRUE(same_bits(whole.weights.view(), expected.weights.view())) << backend->name();
    const Routed alone = route(*backend, rows(logits.view(), 77, 78), 6, true);
    EXPECT_TRUE(same_bits(alone.weights.view(), rows(expected.weights.view(), 77, 78))) << backend->name();
  }
}

TEST(Moe, CombineIsPyTorchs) {
  const Golden golden;
  for (const auto& backend : cpu_backends()) {
    Tensor out = copy_of(golden["moe_combine.out"]);
    moe_combine(*backend, {.y = golden["moe_combine.y"],
                           .places = golden["moe_combine.places"],
                           .weights = golden["moe_combine.weights"],
                           .out = out.view()});
    EXPECT_LE(difference(out.view(), golden["moe_combine.sum"]), 1e-6F) << backend->name();
  }
}

TEST(Moe, CombineGivesTheReferencesBits) {
  constexpr int64_t kTokens = 130;
  constexpr int64_t kEach = 3;
  for (const int64_t c : {1, 16, 203, 768}) {
    const Tensor y = random_tensor({kTokens * kEach, c}, 3);
    const Tensor weights = random_tensor({kTokens, kEach}, 4);
    Tensor places(DType::i32, {kTokens, kEach});
    for (int32_t i = 0; i < kTokens * kEach; ++i) places.as<int32_t>()[i] = (i * 7) % int32_t{kTokens * kEach};
    const auto combined = [&](Backend& backend, int64_t begin, int64_t end) {
      Tensor out = random_tensor({kTokens, c}, 5);
      moe_combine(backend, {.y = y.view(),
                            .places = rows(places.view(), begin, end),
                            .weights = rows(weights.view(), begin, end),
                            .out = rows(out.view(), begin, end)});
      return out;
    };
    const Tensor expected = combined(*make_ref_backend(), 0, kTokens);
    for (const auto& backend : cpu_backends()) {
      EXPECT_TRUE(same_bits(combined(*backend, 0, kTokens).view(), expected.view())) << backend->name() << " " << c;
      EXPECT_TRUE(same_bits(rows(combined(*backend, 60, 61).view(), 60, 61), rows(expected.view(), 60, 61)));
    }
  }
}

}  // namespace
}  // namespace keye::ops
