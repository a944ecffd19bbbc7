#include "ops/rows.h"

#include <limits>

#include "ops/rope.h"
#include "ops/row_testing.h"

namespace keye::ops {
namespace {

/// Floats that rounding to bf16 may get wrong: ties both ways, the largest numbers, subnormal ones, infinities, NaN.
Tensor edge_cases(int64_t n, int64_t c) {
  const auto bits = [](uint32_t word) { return std::bit_cast<float>(word); };
  const float cases[] = {0.0F,
                         -0.0F,
                         bits(0x3f808000),
                         bits(0x3f818000),
                         bits(0x3f808001),
                         bits(0xbf80ffff),
                         bits(0x7f7fffff),
                         bits(0x00000001),
                         bits(0x807fffff),
                         bits(0x00018000),
                         std::numeric_limits<float>::infinity(),
                         -std::numeric_limits<float>::infinity(),
                         bits(0x7f800001),
                         bits(0xffc12345)};
  Tensor result = random_tensor({n, c}, 5, 100.0F);
  for (int64_t i = 0; i < n * c; i += 3) result.as<float>()[i] = cases[static_cast<size_t>(i / 3) % std::size(cases)];
  return result;
}

Tensor converted(Backend& backend, const ConstView& x, DType dtype) {
  Tensor out(dtype, x.shape);
  convert(backend, {.x = x, .out = out.view()});
  return out;
}

TEST(Rows, ConvertRoundsLikeBFloat16) {
  const Tensor x = edge_cases(1, 5000);
  for (const auto& backend : cpu_backends()) {
    const Tensor narrow = converted(*backend, x.view(), DType::bf16);
    for (int64_t i = 0; i < x.shape().elements(); ++i) {
      ASSERT_EQ(narrow.as<BFloat16>()[i].bits, BFloat16(x.as<float>()[i]).bits) << backend->name() << " " << i;
    }
    const Tensor wide = converted(*backend, narrow.view(), DType::f32);
    for (int64_t i = 0; i < x.shape().elements(); ++i) {
      const auto expected = static_cast<float>(narrow.as<BFloat16>()[i]);
      ASSERT_EQ(std::bit_cast<uint32_t>(wide.as<float>()[i]), std::bit_cast<uint32_t>(expected)) << backend->name();
    }
  }
}

TEST(Rows, ConvertInManyRanges) {
  const Tensor x = random_tensor({100001}, 3);
  const auto ref = make_ref_backend();
  const Tensor expected = converted(*ref, x.view(), DType::bf16);
  for (const auto& backend : cpu_backends()) {
    EXPECT_TRUE(same_bits(converted(*backend, x.view(), DType::bf16).view(), expected.view())) << backend->name();
    EXPECT_TRUE(same_bits(converted(*backend, x.view(), DType::f32).view(), x.view())) << backend->name();
  }
}

TEST(Rows, EmbedWidensTheRowsOfTokens) {
  constexpr int64_t kWidth = 37;
  const int32_t tokens[] = {4, 0, 4, 10};
  const Tensor f32 = random_tensor({11, kWidth}, 8);
  const Tensor bf16 = converted(*make_ref_backend(), f32.view(), DType::bf16);
  Tensor f16(DType::f16, {11, kWidth});
  for (int64_t i = 0; i < f16.shape().elements(); ++i) {
    f16.as<uint16_t>()[i] = static_cast<uint16_t>(i * 149 % 0x7c00);  // every exponent but that of infinities
  }
  for (const auto& backend : cpu_backends()) {
    for (const Tensor* table : std::initializer_list<const Tensor*>{&f32, &bf16, &f16}) {
      Tensor out(DType::f32, {4, kWidth});
      embed(*backend, {.table = table->view(), .tokens = tokens, .out = out.view()});
      for (int64_t t = 0; t < 4; ++t) {
        float expected[kWidth];
        const ConstView row = rows(table->view(), tokens[t], tokens[t] + 1);
        convert_to_float(table->dtype(), row.data, expected, kWidth);
        EXPECT_EQ(std::memcmp(out.as<float>() + t * kWidth, expected, sizeof expected), 0)
            << backend->name() << " " << dtype_name(table->dtype());
      }
    }
  }
}

TEST(Rows, CopyRowsMovesAndConverts) {
  constexpr int64_t kWidth = 19;
  const int32_t from[] = {3, 1, 1};
  const int32_t to[] = {0, 4, 2};
  const Tensor wide = edge_cases(5, kWidth);
  const Tensor narrow = converted(*make_ref_backend(), wide.view(), DType::bf16);
  for (const auto& backend : cpu_backends()) {
    for (const Tensor* x : {&wide, &narrow}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Tensor out(dtype, {6, kWidth});
        copy_rows(*backend, {.x = x->view(), .from = from, .to = to, .out = out.view()});
        for (size_t i = 0; i < 3; ++i) {
          const Tensor expected = converted(*make_ref_backend(), rows(x->view(), from[i], from[i] + 1), dtype);
          EXPECT_TRUE(same_bits(rows(out.view(), to[i], to[i] + 1), expected.view())) << backend->name();
        }
        EXPECT_TRUE(same_bits(rows(out.view(), 1, 2), Tensor(dtype, {1, kWidth}).view())) << "a row not named changed";
      }
    }
  }
}

TEST(RowsDeath, RefusesATokenOutsideTheTable) {
  const auto backend = make_ref_backend();
  Tensor table(DType::f32, {3, 2});
  Tensor out(DType::f32, {1, 2});
  const int32_t tokens[] = {3};
  EXPECT_DEATH(embed(*backend, {.table = table.view(), .tokens = tokens, .out = out.view()}), "tokens holds 3");
}

TEST(Rope, ReferenceIsExactAtAnyPosition) {
  const Golden golden;
  const ConstView positions = golden["rope.positions"];
  const auto n = static_cast<size_t>(positions.shape[1]);
  const auto axis = [&](size_t i) { return std::span(positions.as<int32_t>() + i * n, n); };
  for (const auto& backend : cpu_backends()) {
    Tensor cos(DType::f32, golden["rope.cos"].shape);
    Tensor sin(DType::f32, golden["rope.sin"].shape);
    rope_table(*backend, {.positions = {axis(0), axis(1), axis(2)},
                          .inv_freq = golden["rope.inv_freq"],
                          .sections = {16, 24, 24},
                          .cos = cos.view(),
                          .sin = sin.view()});
    EXPECT_LE(difference(cos.view(), golden["rope.cos"]), 1e-7F) << backend->name();
    EXPECT_LE(difference(sin.view(), golden["rope.sin"]), 1e-7F) << backend->name();
  }
}

TEST(Rope, ARowDoesNotDependOnItsBatch) {
  std::vector<int32_t> positions[3];
  for (int32_t t = 0; t < 300; ++t) {
    positions[0].push_back(t);
    positions[1].push_back(7 * t);
    positions[2].push_back(1000000 - t);
  }
  const float inv_freq[] = {1.0F, 0.1F, 0.01F, 0.003F, 0.001F};
  const auto table = [&](Backend& backend, size_t begin, size_t count, Tensor& cos, Tensor& sin) {
    const auto axis = [&](size_t i) { return std::span<const int32_t>(positions[i]).subspan(begin, count); };
    cos = Tensor(DType::f32, {static_cast<int64_t>(count), 5});
    sin = Tensor(DType::f32, {static_cast<int64_t>(count), 5});
    rope_table(backend, {.positions = {axis(0), axis(1), axis(2)},
                         .inv_freq = {inv_freq, DType::f32, {5}},
                         .sections = {1, 2, 2},
                         .cos = cos.view(),
                         .sin = sin.view()});
  };
  for (const auto& backend : cpu_backends()) {
    Tensor cos, sin, cos_alone, sin_alone;
    table(*backend, 0, 300, cos, sin);
    for (const size_t t : {0, 211, 299}) {
      table(*backend, t, 1, cos_alone, sin_alone);
      const auto row = static_cast<int64_t>(t);
      EXPECT_TRUE(same_bits(rows(cos.view(), row, row + 1), cos_alone.view())) << backend->name();
      EXPECT_TRUE(same_bits(rows(sin.view(), row, row + 1), sin_alone.view())) << backend->name();
    }
  }
}

}  // namespace
}  // namespace keye::ops
