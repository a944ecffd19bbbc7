#include "ops/latent.h"

#include <numeric>

#include "ops/attention.h"
#include "ops/row_testing.h"

namespace keye::ops {
namespace {

struct Sizes {
  int64_t tokens, query, latent, rope, heads, plain;
};

/// From one token to more than a thread's share, widths that fill no register, and the widths of DeepSeek-V3.
const Sizes kSizes[] = {
    {1, 2, 2, 2, 1, 2}, {7, 48, 32, 16, 4, 32}, {130, 33, 30, 10, 3, 7}, {70, 1536, 512, 64, 5, 128}};

Tensor rounded(const Tensor& x, DType dtype) {
  if (dtype == DType::f32) return copy_of(x.view());
  Tensor result(dtype, x.shape());
  for (int64_t i = 0; i < x.shape().elements(); ++i) result.as<BFloat16>()[i] = BFloat16(x.as<float>()[i]);
  return result;
}

struct Written {
  Tensor q, rows;
};

Written write(Backend& backend, const Sizes& s, DType dtype, DType plane_dtype) {
  const int64_t width = s.latent + s.rope;
  const Tensor x = random_tensor({s.tokens, s.query + width}, 1, 3.0F);
  const Tensor q_norm = random_tensor({s.query}, 2);
  const Tensor kv_norm = random_tensor({s.latent}, 3);
  const Tensor cos = random_tensor({s.tokens, s.rope / 2}, 4);
  const Tensor sin = random_tensor({s.tokens, s.rope / 2}, 5);
  std::vector<int32_t> slots;  // from the middle of page 2 into page 0, where it begins anew
  for (int64_t t = 0; t < s.tokens; ++t) {
    slots.push_back(static_cast<int32_t>(t < 30                 ? 2 * kPageTokens + 34 + t
                                         : t - 30 < kPageTokens ? t - 30
                                                                : kPageTokens + t - 30 - kPageTokens));
  }
  KvPlane plane{nullptr, plane_dtype, PlaneLayout::rows, 1, static_cast<int>(width)};
  Written written{Tensor(dtype, {s.tokens, s.query}),
                  Tensor(DType::u8, {static_cast<int64_t>(3 * plane.page_bytes())})};
  std::memset(written.rows.view().data, 0x11, 3 * plane.page_bytes());
  plane.data = written.rows.as<std::byte>();
  latent_input(backend, {x.view(), q_norm.view(), kv_norm.view(), 1e-6F, cos.view(), sin.view(), 1.25F, slots,
                         written.q.view(), plane});
  return written;
}

TEST(Latent, InputGivesTheReferencesBits) {
  const auto reference = make_ref_backend();
  for (const Sizes& sizes : kSizes) {
    for (const auto& [dtype, plane] : {std::pair(DType::f32, DType::f32), std::pair(DType::bf16, DType::bf16),
                                       std::pair(DType::bf16, DType::i8), std::pair(DType::f32, DType::f8_e4m3)}) {
      const Written expected = write(*reference, sizes, dtype, plane);
      for (const auto& backend : cpu_backends()) {
        const Written got = write(*backend, sizes, dtype, plane);
        EXPECT_TRUE(same_bits(got.q.view(), expected.q.view())) << backend->name() << sizes.tokens;
        EXPECT_TRUE(same_bits(got.rows.view(), expected.rows.view())) << backend->name() << sizes.tokens;
      }
    }
  }
}

TEST(Latent, InputNormalisesAndRotatesNeighbours) {
  const auto backend = make_ref_backend();
  const float x[] = {3, 4, 6, 8, 1, 2};
  const float ones[] = {1, 1};
  const float cos[] = {0.5F};
  const float sin[] = {2.0F};
  float q[2];
  std::vector<float> page(kPageTokens * 4, 7.0F);
  const int32_t slots[] = {0};
  const auto view = [](const float* data, Shape shape) { return ConstView{data, DType::f32, shape}; };
  latent_input(*backend, {view(x, {1, 6}), view(ones, {2}), view(ones, {2}), 0.0F, view(cos, {1, 1}), view(sin, {1, 1}),
                          2.0F, slots, View{q, DType::f32, {1, 2}},
                          KvPlane{reinterpret_cast<std::byte*>(page.data()), DType::f32, PlaneLayout::rows, 1, 4}});
  const float root = std::sqrt(12.5F);  // of the mean square of 3 and 4; 6 and 8 are twice as large
  EXPECT_FLOAT_EQ(q[0], 3 / root);
  EXPECT_FLOAT_EQ(q[1], 4 / root);
  EXPECT_FLOAT_EQ(page[0], 3 / root);
  EXPECT_FLOAT_EQ(page[1], 4 / root);
  EXPECT_FLOAT_EQ(page[2], 1 * 1 - 2 * 4);
  EXPECT_FLOAT_EQ(page[3], 2 * 1 + 1 * 4);
  for (size_t i = 4; i < page.size(); ++i) EXPECT_EQ(page[i], 0.0F);
}

TEST(Latent, QueriesAndSwapsGiveTheReferencesBits) {
  const auto reference = make_ref_backend();
  for (const Sizes& s : kSizes) {
    const Tensor x = random_tensor({s.tokens, s.heads, s.plain + s.rope}, 1, 3.0F);
    const Tensor cos = random_tensor({s.tokens, s.rope / 2}, 4);
    const Tensor sin = random_tensor({s.tokens, s.rope / 2}, 5);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor latent = rounded(random_tensor({s.heads, s.tokens, s.latent}, 6), dtype);
      const auto run = [&](Backend& backend) {
        std::vector<Tensor> results;
        results.emplace_back(dtype, Shape{s.tokens, s.heads, s.latent + s.rope});
        latent_query(backend, {x.view(), latent.view(), cos.view(), sin.view(), 0.75F, results[0].view()});
        results.emplace_back(dtype, Shape{s.heads, s.tokens, s.plain});
        swap_axes(backend, {x.view(), results[1].view()});
        results.emplace_back(dtype, Shape{s.tokens, s.heads, s.latent});
        swap_axes(backend, {latent.view(), results[2].view()});
        return results;
      };
      const std::vector<Tensor> expected = run(*reference);
      for (const auto& backend : cpu_backends()) {
        const std::vector<Tensor> got = run(*backend);
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_TRUE(same_bits(got[i].view(), expected[i].view())) << backend->name() << s.tokens << " " << i;
        }
      }
      // A swap moves each row, and a second one moves it back.
      Tensor back(dtype, {s.heads, s.tokens, s.latent});
      swap_axes(*reference, {expected[2].view(), back.view()});
      EXPECT_TRUE(same_bits(back.view(), latent.view()));
      if (dtype == DType::f32) {
        const float* last = expected[1].as<float>() + ((s.heads - 1) * s.tokens + s.tokens - 1) * s.plain;
        EXPECT_EQ(last[0], x.as<float>()[((s.tokens - 1) * s.heads + s.heads - 1) * (s.plain + s.rope)]);
      }
    }
  }
}

/// Keys wider than values, which are their beginnings: what single heads of equal width give with the rest cut off.
TEST(Latent, ValuesMayBeTheBeginningsOfKeys) {
  const auto reference = make_ref_backend();
  struct Case {
    int heads, latent, rope, context, rows;
  };
  for (const Case& c :
       {Case{4, 32, 16, 0, 5}, Case{3, 30, 10, 70, 1}, Case{50, 512, 64, 1030, 1}, Case{20, 512, 64, 63, 3}}) {
    const int width = c.latent + c.rope;
    const int64_t tokens = c.context + c.rows;
    const auto pages = pages_for(tokens);
    std::vector<int32_t> order;
    for (int64_t i = 0; i < pages; ++i) order.push_back(static_cast<int32_t>((i * 7 + 3) % pages));
    if (pages % 7 == 0) std::iota(order.begin(), order.end(), 0);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor cache = rounded(random_tensor({pages, kPageTokens, width}, 8), dtype);
      const Tensor q = rounded(random_tensor({c.rows, c.heads, width}, 9, 0.2F), dtype);
      const KvPlane keys{const_cast<std::byte*>(cache.as<std::byte>()), dtype, PlaneLayout::rows, 1, width};
      KvPlane values = keys;
      values.dim = c.latent;
      values.stride = width;
      const SequenceRows sequence{0, c.rows, c.context, order};
      const auto run = [&](Backend& backend, const KvPlane& v) {
        Tensor out(dtype, {c.rows, int64_t{c.heads} * v.dim});
        paged_attention(
            backend,
            {.q = q.view(), .k = keys, .v = v, .sequences = std::span(&sequence, 1), .scale = 0.3F, .out = out.view()});
        return out;
      };
      const Tensor expected = run(*reference, values);
      for (const auto& backend : cpu_backends()) {
        const Tensor got = run(*backend, values);
        const Tensor whole = run(*backend, keys);
        float worst = 0;
        for (int64_t row = 0; row < int64_t{c.rows} * c.heads; ++row) {
          for (int64_t i = 0; i < c.latent; ++i) {
            const auto at = [&](const Tensor& t, int64_t index) {
              return dtype == DType::f32 ? t.as<float>()[index] : static_cast<float>(t.as<BFloat16>()[index]);
            };
            ASSERT_EQ(at(got, row * c.latent + i), at(whole, row * width + i)) << backend->name();
            worst = std::max(worst, std::abs(at(got, row * c.latent + i) - at(expected, row * c.latent + i)));
          }
        }
        EXPECT_LE(worst, dtype == DType::f32 ? 2e-6F : 1.2e-2F) << backend->name() << " " << c.heads;
      }
    }
  }
}

}  // namespace
}  // namespace keye::ops
