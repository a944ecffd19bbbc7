// A needle in 256K tokens: the indexer's choice finds it at any depth, and attention over the choice is dense attention
// over a cache that holds nothing else, bit for bit.

#include <algorithm>
#include <array>
#include <functional>
#include <random>

#include "ops/attention.h"
#include "ops/indexer.h"
#include "ops/row_testing.h"

namespace keye::ops {
namespace {

constexpr int kContext = 262'144;
constexpr int kTopk = 2048;
constexpr int kIndexHeads = 2;
constexpr int kIndexDim = 32;
constexpr int kHeads = 4;  // of queries, to one head of keys and values
constexpr int kDim = 32;
constexpr float kMarker = 100.0F;  // the needle's values

/// A plane of `tokens` tokens whose pages lie in the opposite order.
struct Plane {
  std::vector<std::byte> memory;
  std::vector<int32_t> pages;
  KvPlane plane;

  Plane(int tokens, PlaneLayout layout, int dim)
      : plane{.data = nullptr, .dtype = DType::bf16, .layout = layout, .heads = 1, .dim = dim} {
    const auto count = static_cast<int32_t>(pages_for(tokens));
    memory.resize(static_cast<size_t>(count) * plane.page_bytes());
    plane.data = memory.data();
    for (int32_t i = count - 1; i >= 0; --i) pages.push_back(i);
  }
  BFloat16& at(int index, int channel) {
    auto* block = reinterpret_cast<BFloat16*>(plane.block(pages[static_cast<size_t>(index / kPageTokens)], 0));
    const int slot = index % kPageTokens;
    if (plane.layout == PlaneLayout::rows) return block[slot * plane.dim + channel];
    return block[(channel / 2 * kPageTokens + slot) * 2 + channel % 2];
  }
  void fill(int tokens, uint32_t seed) {
    std::minstd_rand generator(seed);
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < plane.dim; ++c) {
        at(i, c) = BFloat16(static_cast<float>(generator() % 1024) / 512.0F - 1.0F);
      }
    }
  }
};

void fill(const View& view, const std::function<float(int64_t)>& value) {
  for (int64_t i = 0; i < view.elements(); ++i) view.as<BFloat16>()[i] = BFloat16(value(i));
}

/// The last token's queries for a needle whose keys are all ones.
struct Haystack {
  Plane index_keys{kContext, PlaneLayout::keys, kIndexDim};
  Plane keys{kContext, PlaneLayout::rows, kDim};
  Plane values{kContext, PlaneLayout::rows, kDim};
  Tensor index_q{DType::bf16, {1, kIndexHeads, kIndexDim}};
  Tensor gate{DType::f32, {1, kIndexHeads}};
  Tensor q{DType::bf16, {1, kHeads, kDim}};

  Haystack() {
    index_keys.fill(kContext, 1);
    keys.fill(kContext, 2);
    values.fill(kContext, 3);
    fill(index_q.view(), [](int64_t) { return 1.0F; });
    fill(q.view(), [](int64_t) { return 1.0F; });
    std::fill_n(gate.as<float>(), kIndexHeads, 1.0F);
  }

  Tensor select(Backend& backend) const {
    Tensor chosen(DType::i32, {1, kTopk});
    const SequenceRows last{0, 1, kContext - 1, index_keys.pages};
    sparse_select(backend, {.q = index_q.view(),
                            .gate = gate.view(),
                            .keys = index_keys.plane,
                            .sequences = {&last, 1},
                            .chosen = chosen.view()});
    return chosen;
  }

  Tensor attend(Backend& backend, const Tensor& chosen) const {
    Tensor out(DType::bf16, {1, kHeads * kDim});
    const SequenceRows last{0, 1, kContext - 1, keys.pages};
    paged_attention(backend, {.q = q.view(),
                              .k = keys.plane,
                              .v = values.plane,
                              .sequences = {&last, 1},
                              .scale = 1.0F,
                              .chosen = chosen.view(),
                              .out = out.view()});
    return out;
  }

  /// Dense attention over a cache of the chosen tokens alone.
  Tensor attend_alone(Backend& backend, const Tensor& chosen) {
    Plane k(kTopk, PlaneLayout::rows, kDim);
    Plane v(kTopk, PlaneLayout::rows, kDim);
    for (int i = 0; i < kTopk; ++i) {
      const int index = chosen.as<int32_t>()[i];
      for (int c = 0; c < kDim; ++c) {
        k.at(i, c) = keys.at(index, c);
        v.at(i, c) = values.at(index, c);
      }
    }
    Tensor out(DType::bf16, {1, kHeads * kDim});
    const SequenceRows last{0, 1, kTopk - 1, k.pages};
    paged_attention(
        backend,
        {.q = q.view(), .k = k.plane, .v = v.plane, .sequences = {&last, 1}, .scale = 1.0F, .out = out.view()});
    return out;
  }
};

TEST(Needle, IsFoundAtAnyDepthOf256K) {
  Haystack hay;
  for (const std::string isa : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    auto made = make_cpu_backend({.threads = 2, .isa = isa});
    if (!made.has_value()) continue;
    Backend& backend = **made;
    for (const int depth :
         {0, 63, 64, 1000, kContext / 4, kContext / 2 + 1, kContext - 2 * kTopk, kContext - 2, kContext - 1}) {
      std::vector<std::array<BFloat16, 3>> before(kDim);  // an index key is as wide as the others
      static_assert(kIndexDim == kDim);
      for (int c = 0; c < kDim; ++c) {
        auto& old = before[static_cast<size_t>(c)];
        old = {hay.index_keys.at(depth, c), hay.keys.at(depth, c), hay.values.at(depth, c)};
        hay.index_keys.at(depth, c) = BFloat16(1.0F);
        hay.keys.at(depth, c) = BFloat16(1.0F);
        hay.values.at(depth, c) = BFloat16(kMarker);
      }
      const Tensor chosen = hay.select(backend);
      const int32_t* first = chosen.as<int32_t>();
      EXPECT_TRUE(std::binary_search(first, first + kTopk, depth)) << isa << ", at " << depth;
      const Tensor out = hay.attend(backend, chosen);
      EXPECT_GT(static_cast<float>(out.as<BFloat16>()[0]), kMarker / 2) << isa << ", at " << depth;
      EXPECT_TRUE(same_bits(out.view(), hay.attend_alone(backend, chosen).view())) << isa << ", at " << depth;
      for (int c = 0; c < kDim; ++c) {
        const auto& old = before[static_cast<size_t>(c)];
        hay.index_keys.at(depth, c) = old[0];
        hay.keys.at(depth, c) = old[1];
        hay.values.at(depth, c) = old[2];
      }
      const Tensor without = hay.select(backend);
      EXPECT_LT(static_cast<float>(hay.attend(backend, without).as<BFloat16>()[0]), kMarker / 2);
    }
  }
}

}  // namespace
}  // namespace keye::ops
