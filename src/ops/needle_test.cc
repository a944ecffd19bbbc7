// A needle in 256K tokens: the indexer's choice finds it at any depth, and attention over the choice is dense attention
// over a cache that holds nothing else, bit for bit.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

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

/// What the last of `tokens` tokens makes of them, or of those that are chosen.
Tensor attend_last(Backend& backend, const Tensor& q, int tokens, const Plane& keys, const Plane& values,
                   const ConstView& chosen) {
  Tensor out(DType::bf16, {1, kHeads * kDim});
  const SequenceRows last{0, 1, tokens - 1, keys.pages};
  paged_attention(backend, {.q = q.view(),
                            .k = keys.plane,
                            .v = values.plane,
                            .sequences = {&last, 1},
                            .scale = 1.0F,
                            .chosen = chosen,
                            .out = out.view()});
  return out;
}

/// The last token's queries for a needle whose keys are all ones.
struct Haystack {
  Plane index_keys{kContext, PlaneLayout::keys, kIndexDim};
  Plane keys{kContext, PlaneLayout::rows, kDim};
  Plane values{kContext, PlaneLayout::rows, kDim};
  Tensor index_q{DType::bf16, {1, kIndexHeads, kIndexDim}};
  Tensor gate{DType::f32, {1, kIndexHeads}};
  Tensor q{DType::bf16, {1, kHeads, kDim}};
  std::array<std::array<BFloat16, 3>, kDim> needle;  // for each channel its index key, key and value

  Haystack() {
    index_keys.fill(kContext, 1);
    keys.fill(kContext, 2);
    values.fill(kContext, 3);
    std::fill_n(index_q.as<BFloat16>(), kIndexHeads * kIndexDim, BFloat16(1.0F));
    std::fill_n(q.as<BFloat16>(), kHeads * kDim, BFloat16(1.0F));
    needle.fill({BFloat16(1.0F), BFloat16(1.0F), BFloat16(kMarker)});
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

  /// Puts the needle there, or takes it out again.
  void swap_needle(int index) {
    static_assert(kIndexDim == kDim);
    for (int c = 0; c < kDim; ++c) {
      auto& [index_key, key, value] = needle[static_cast<size_t>(c)];
      std::swap(index_keys.at(index, c), index_key);
      std::swap(keys.at(index, c), key);
      std::swap(values.at(index, c), value);
    }
  }

  Tensor attend(Backend& backend, const Tensor& chosen) const {
    return attend_last(backend, q, kContext, keys, values, chosen.view());
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
    return attend_last(backend, q, kTopk, k, v, {});
  }
};

TEST(Needle, IsFoundAtAnyDepthOf256K) {
  Haystack hay;
  const auto first_value = [](const Tensor& out) { return static_cast<float>(out.as<BFloat16>()[0]); };
  for (const auto& backend : backends_of_two_threads()) {
    for (const int depth :
         {0, 63, 64, 1000, kContext / 4, kContext / 2 + 1, kContext - 2 * kTopk, kContext - 2, kContext - 1}) {
      const std::string what = fmt::format("{}, at {}", backend->name(), depth);
      hay.swap_needle(depth);
      const Tensor chosen = hay.select(*backend);
      const int32_t* first = chosen.as<int32_t>();
      EXPECT_TRUE(std::binary_search(first, first + kTopk, depth)) << what;
      const Tensor out = hay.attend(*backend, chosen);
      EXPECT_GT(first_value(out), kMarker / 2) << what;
      EXPECT_TRUE(same_bits(out.view(), hay.attend_alone(*backend, chosen).view())) << what;
      hay.swap_needle(depth);
      EXPECT_LT(first_value(hay.attend(*backend, hay.select(*backend))), kMarker / 2) << what;
    }
  }
}

}  // namespace
}  // namespace keye::ops
