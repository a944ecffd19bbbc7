#include "ops/indexer.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

/// A key plane of its own memory, its pages taken in an order that is not theirs.
struct Keys {
  Tensor memory;
  KvPlane plane;
  std::vector<int32_t> pages;

  Keys(int64_t tokens, int dim, DType dtype = DType::f32) {
    const int64_t count = (tokens + kPageTokens - 1) / kPageTokens;
    memory = Tensor(dtype, {count + 1, dim, kPageTokens});
    plane = {.data = memory.as<std::byte>(), .dtype = dtype, .layout = PlaneLayout::keys, .heads = 1, .dim = dim};
    for (int64_t i = 0; i < count; ++i) pages.push_back(static_cast<int32_t>(count - i));
    for (int64_t i = 0; i < memory.shape().elements(); ++i) set_element(i, 1e30F);  // what an earlier owner left
  }
  void set_element(int64_t i, float x) {
    if (plane.dtype == DType::f32) {
      memory.as<float>()[i] = x;
    } else {
      memory.as<BFloat16>()[i] = BFloat16(x);
    }
  }
  /// Where channel i of the key at `index` is.
  int64_t place(int64_t index, int64_t i) const {
    const int64_t page = int64_t{pages[static_cast<size_t>(index / kPageTokens)]} * plane.dim * kPageTokens;
    const int64_t slot = index % kPageTokens;
    return page + (plane.dtype == DType::f32 ? i * kPageTokens + slot : (i / 2 * kPageTokens + slot) * 2 + i % 2);
  }
  float element(int64_t index, int64_t i) const {
    return plane.dtype == DType::f32 ? memory.as<float>()[place(index, i)]
                                     : static_cast<float>(memory.as<BFloat16>()[place(index, i)]);
  }
  int32_t slot(int64_t index) const {
    return pages[static_cast<size_t>(index / kPageTokens)] * kPageTokens + static_cast<int32_t>(index % kPageTokens);
  }
  float* at(int64_t index, int64_t i) { return memory.as<float>() + place(index, i); }
};

struct Inputs {
  Tensor q_gate, k_in, q_norm, k_norm, k_bias, cos, sin;
  int64_t tokens, heads, dim;

  Inputs(int64_t n, int64_t h, int64_t d)
      : q_gate(random_tensor({n, h * d + h}, 1)),
        k_in(random_tensor({n, d}, 2)),
        q_norm(random_tensor({d}, 3)),
        k_norm(random_tensor({d}, 4)),
        k_bias(random_tensor({d}, 5)),
        cos(random_tensor({n, d / 2}, 6)),
        sin(random_tensor({n, d / 2}, 7)),
        tokens(n),
        heads(h),
        dim(d) {}
  Inputs(const Golden& golden, const std::string& name)
      : q_gate(copy_of(golden[name + ".q_gate"])),
        k_in(copy_of(golden[name + ".k_in"])),
        q_norm(copy_of(golden[name + ".q_norm"])),
        k_norm(copy_of(golden[name + ".k_norm"])),
        k_bias(copy_of(golden[name + ".k_bias"])),
        cos(copy_of(golden[name + ".cos"])),
        sin(copy_of(golden[name + ".sin"])),
        tokens(golden[name + ".q"].shape[0]),
        heads(golden[name + ".q"].shape[1]),
        dim(golden[name + ".q"].shape[2]) {}
};

/// The queries, gates and keys of the tokens, computed in steps of `step`.
struct Indexed {
  Tensor q, gate;
  Keys keys;

  Indexed(Backend& backend, const Inputs& in, int64_t step, DType dtype = DType::f32)
      : q(dtype, {in.tokens, in.heads, in.dim}),
        gate(DType::f32, {in.tokens, in.heads}),
        keys(in.tokens, static_cast<int>(in.dim), dtype) {
    for (int64_t begin = 0; begin < in.tokens; begin += step) {
      const int64_t end = std::min(begin + step, in.tokens);
      std::vector<int32_t> slots;
      for (int64_t i = begin; i < end; ++i) slots.push_back(keys.slot(i));
      indexer_input(backend, {.q_gate = rows(in.q_gate.view(), begin, end),
                              .k_in = rows(in.k_in.view(), begin, end),
                              .q_norm = in.q_norm.view(),
                              .k_norm = in.k_norm.view(),
                              .k_bias = in.k_bias.view(),
                              .eps = 1e-6F,
                              .cos = rows(in.cos.view(), begin, end),
                              .sin = rows(in.sin.view(), begin, end),
                              .slots = slots,
                              .q = rows(q.view(), begin, end),
                              .gate = rows(gate.view(), begin, end),
                              .keys = keys.plane});
    }
  }
};

struct Selected {
  Tensor chosen;  // [n, topk]
  Tensor scores;

  std::span<const int32_t> row(int64_t i) const {
    return {chosen.as<int32_t>() + i * chosen.shape()[1], static_cast<size_t>(chosen.shape()[1])};
  }
  bool has(int64_t i, int64_t index) const {
    return std::find(row(i).begin(), row(i).end(), static_cast<int32_t>(index)) != row(i).end();
  }
};

/// Some rows of one sequence, from its index `context` on.
Selected select(Backend& backend, const ConstView& q, const ConstView& gate, const Keys& keys, int64_t context,
                int topk, bool with_scores) {
  const int64_t n = q.shape[0];
  const int64_t m = context + n;
  Selected result{.chosen = Tensor(DType::i32, {n, topk}), .scores = {}};
  if (with_scores) result.scores = Tensor(DType::f32, {n, m});
  const SequenceRows sequence{
      .first_row = 0, .rows = static_cast<int32_t>(n), .context = static_cast<int32_t>(context), .pages = keys.pages};
  sparse_select(backend, {.q = q,
                          .gate = gate,
                          .keys = keys.plane,
                          .sequences = {&sequence, 1},
                          .chosen = result.chosen.view(),
                          .scores = with_scores ? result.scores.view() : View{}});
  return result;
}

/// Checks what a row keeps against its own scores, by sorting.
void expect_best(const Selected& selected, int64_t row, int64_t length, int topk, std::string_view name) {
  const float* scores = selected.scores.as<float>() + row * selected.scores.shape()[1];
  std::vector<int32_t> order(static_cast<size_t>(length));
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t i) {
    return std::isnan(scores[i]) ? -std::numeric_limits<double>::infinity()
                                 : std::max(static_cast<double>(scores[i]), -1e300);
  };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
  order.resize(static_cast<size_t>(std::min<int64_t>(length, topk)));
  std::sort(order.begin(), order.end());
  order.resize(static_cast<size_t>(topk), -1);
  ASSERT_TRUE(std::equal(order.begin(), order.end(), selected.row(row).begin())) << name << " row " << row;
}

TEST(Indexer, IsPyTorchs) {
  const Golden golden;
  for (const auto& [name, topk] : {std::pair{std::string("indexer_64"), 20}, {std::string("indexer_16"), 7}}) {
    const Inputs in(golden, name);
    for (const auto& backend : cpu_backends()) {
      Indexed got(*backend, in, in.tokens);
      EXPECT_LE(difference(got.q.view(), golden[name + ".q"]), 3e-6F) << backend->name();
      EXPECT_LE(difference(got.gate.view(), golden[name + ".gate"]), 1e-6F) << backend->name();
      for (int64_t t = 0; t < in.tokens; ++t) {
        for (int64_t i = 0; i < in.dim; ++i) {
          ASSERT_NEAR(got.keys.element(t, i), golden[name + ".k"].as<float>()[t * in.dim + i], 1e-5F)
              << backend->name();
        }
      }
      const Selected selected = select(*backend, got.q.view(), got.gate.view(), got.keys, 0, topk, true);
      EXPECT_LE(difference(selected.scores.view(), golden[name + ".scores"]), 2e-5F) << backend->name();
      for (int64_t t = 0; t < in.tokens; ++t) {
        for (int64_t s = 0; s < in.tokens; ++s) {
          ASSERT_EQ(selected.has(t, s), golden[name + ".selected"].as<uint8_t>()[t * in.tokens + s] != 0)
              << backend->name() << " " << name << " " << t << " " << s;
        }
      }
    }
  }
}

TEST(Indexer, HadamardTwiceIsTheIdentity) {
  // Without rotation and with unit weights, a query is the Hadamard rotation of its RMS-normalised row. That row's own
  // norm is 1 after one pass, so a second pass undoes the first.
  for (const int64_t dim : {2, 8, 32, 64, 128}) {
    Inputs in(3, 1, dim);
    std::fill_n(in.q_norm.as<float>(), dim, 1.0F);
    std::fill_n(in.cos.as<float>(), in.cos.shape().elements(), 1.0F);
    std::fill_n(in.sin.as<float>(), in.sin.shape().elements(), 0.0F);
    for (const auto& backend : cpu_backends()) {
      const Indexed once(*backend, in, 3);
      Inputs again = Inputs(3, 1, dim);
      std::fill_n(again.q_norm.as<float>(), dim, 1.0F);
      again.cos = copy_of(in.cos.view());
      again.sin = copy_of(in.sin.view());
      for (int64_t t = 0; t < 3; ++t) {
        std::copy_n(once.q.as<float>() + t * dim, dim, again.q_gate.as<float>() + t * (dim + 1));
      }
      const Indexed twice(*backend, again, 3);
      for (int64_t t = 0; t < 3; ++t) {
        const float* x = in.q_gate.as<float>() + t * (dim + 1);
        float squares = 0.0F;
        for (int64_t i = 0; i < dim; ++i) squares += x[i] * x[i];
        const float scale = 1.0F / std::sqrt(squares / static_cast<float>(dim) + 1e-6F);
        for (int64_t i = 0; i < dim; ++i) {
          EXPECT_NEAR(twice.q.as<float>()[t * dim + i], x[i] * scale, 1e-5F) << backend->name() << " " << dim;
        }
      }
    }
  }
}

TEST(Indexer, InputsGiveTheReferencesBitsInAnySteps) {
  const auto ref = make_ref_backend();
  for (const auto& [dim, dtype] : {std::pair<int64_t, DType>{8, DType::f32},
                                   {16, DType::f32},
                                   {16, DType::bf16},
                                   {32, DType::f32},
                                   {64, DType::f32},
                                   {64, DType::bf16},
                                   {128, DType::f32},
                                   {128, DType::bf16}}) {
    const Inputs in(150, 3, dim);
    const Indexed expected(*ref, in, in.tokens, dtype);
    EXPECT_NE(expected.keys.element(149, 0), 0.0F);
    for (const auto& backend : cpu_backends()) {
      for (const int64_t step : {150, 1, 7, 64}) {
        const Indexed got(*backend, in, step, dtype);
        EXPECT_TRUE(same_bits(got.q.view(), expected.q.view())) << backend->name() << " " << dim << " " << step;
        EXPECT_TRUE(same_bits(got.gate.view(), expected.gate.view())) << backend->name();
        EXPECT_TRUE(same_bits(got.keys.memory.view(), expected.keys.memory.view())) << backend->name() << " " << step;
      }
    }
  }
}

TEST(Indexer, SlotZeroClearsThePage) {
  const Inputs in(1, 1, 64);
  for (const auto& backend : cpu_backends()) {
    Indexed got(*backend, in, 1);
    for (int64_t i = 0; i < 64; ++i) {
      EXPECT_NE(*got.keys.at(0, i), 0.0F);
      for (int64_t s = 1; s < kPageTokens; ++s) ASSERT_EQ(got.keys.at(0, i)[s], 0.0F) << backend->name();
    }
    EXPECT_EQ(got.keys.memory.as<float>()[0], 1e30F) << "another page was touched";
  }
}

TEST(SparseSelect, KeepsTheBestOfEachRow) {
  for (const int64_t heads : {1, 6}) {
    const Inputs in(333, heads, 32);
    for (const auto& backend : cpu_backends()) {
      const Indexed indexed(*backend, in, in.tokens);
      for (const int topk : {1, 64, 100, 332}) {
        const Selected got = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, topk, true);
        for (int64_t t = in.tokens - 1; t >= 0; t -= 19) expect_best(got, t, t + 1, topk, backend->name());
      }
    }
  }
}

/// A row of the published arithmetic: what it holds are e4m3 numbers at one power-of-two scale, close to the f32 row.
TEST(Indexer, RoundsRowsToE4m3AtAPowerOfTwo) {
  const Inputs in(70, 3, 64);
  for (const auto& backend : cpu_backends()) {
    const Indexed exact(*backend, in, in.tokens);
    const Indexed rounded(*backend, in, in.tokens, DType::bf16);
    for (int64_t row = 0; row < 70 * 3; ++row) {
      const float* x = exact.q.as<float>() + row * 64;
      const BFloat16* y = rounded.q.as<BFloat16>() + row * 64;
      float most = 0;
      for (int64_t i = 0; i < 64; ++i) most = std::max(most, std::abs(static_cast<float>(y[i])));
      for (int64_t i = 0; i < 64; ++i) {
        const float value = static_cast<float>(y[i]);
        // 3 bits after the first, or 2^-9 of a scale of which the largest number is at least 240.
        ASSERT_NEAR(value, x[i], std::abs(x[i]) * (0x1p-4F + 0x1p-6F) + most * 0x1p-6F) << backend->name();
        int exponent = 0;
        const float fraction = std::frexp(value, &exponent);
        ASSERT_EQ(fraction * 16, std::trunc(fraction * 16)) << value;
      }
    }
  }
}

TEST(SparseSelect, ScoresAgreeWithTheReference) {
  const Inputs in(200, 5, 64);
  const auto ref = make_ref_backend();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Indexed indexed(*ref, in, in.tokens, dtype);
    const Selected expected = select(*ref, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, 50, true);
    for (const auto& backend : cpu_backends()) {
      const Selected got = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, 50, true);
      EXPECT_LE(difference(got.scores.view(), expected.scores.view()), 1e-5F) << backend->name();
      for (int64_t t = 0; t < 200; ++t) {
        for (int64_t s = t + 1; s < 200; ++s) ASSERT_EQ(got.scores.as<float>()[t * 200 + s], 0.0F) << backend->name();
        expect_best(got, t, t + 1, 50, backend->name());
      }
    }
  }
}

TEST(SparseSelect, ARowDoesNotDependOnItsChunkItsBatchOrTheThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    constexpr int kTopk = 90;
    constexpr int64_t kTokens = 1500;  // enough for several pieces
    const Inputs in(kTokens, 3, 64);
    Selected expected;
    std::string isa;
    for (const auto& backend : cpu_backends()) {
      // Too slow for plain loops, which have no pieces anyway.
      if (backend->name().find("scalar") != std::string_view::npos) continue;
      const Indexed indexed(*backend, in, in.tokens, dtype);
      Selected whole = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, kTopk, true);
      const std::string name(backend->name().substr(0, backend->name().rfind('x')));
      if (name != isa) {  // the first of an instruction set has one thread
        isa = name;
        expected = std::move(whole);
        continue;
      }
      EXPECT_TRUE(same_bits(whole.scores.view(), expected.scores.view())) << backend->name();
      EXPECT_TRUE(same_bits(whole.chosen.view(), expected.chosen.view())) << backend->name();
      for (const auto& [begin, end] : {std::pair{1499, 1500}, {1490, 1492}, {301, 308}, {64, 128}, {85, 95}}) {
        const Selected part = select(*backend, rows(indexed.q.view(), begin, end),
                                     rows(indexed.gate.view(), begin, end), indexed.keys, begin, kTopk, false);
        EXPECT_TRUE(same_bits(part.chosen.view(), rows(expected.chosen.view(), begin, end)))
            << backend->name() << " " << begin;
      }
    }
  }
}

TEST(SparseSelect, TwoSequencesInOneStep) {
  const Inputs in(260, 2, 32);
  for (const auto& backend : cpu_backends()) {
    const Indexed indexed(*backend, in, in.tokens);
    const Selected whole = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, 33, false);
    // The same tokens as two sequences' rows: a decoding row at index 259, then a chunk [10, 51).
    std::vector<int32_t> rows_of{259};
    for (int32_t t = 10; t < 51; ++t) rows_of.push_back(t);
    Tensor q(DType::f32, {42, 2, 32});
    Tensor gate(DType::f32, {42, 2});
    for (int64_t i = 0; i < 42; ++i) {
      std::copy_n(indexed.q.as<float>() + rows_of[static_cast<size_t>(i)] * 64, 64, q.as<float>() + i * 64);
      std::copy_n(indexed.gate.as<float>() + rows_of[static_cast<size_t>(i)] * 2, 2, gate.as<float>() + i * 2);
    }
    const SequenceRows sequences[] = {{.first_row = 0, .rows = 1, .context = 259, .pages = indexed.keys.pages},
                                      {.first_row = 1, .rows = 41, .context = 10, .pages = indexed.keys.pages}};
    const Tensor chosen(DType::i32, {42, 33});
    Selected got{.chosen = copy_of(chosen.view()), .scores = {}};
    sparse_select(*backend, {.q = q.view(),
                             .gate = gate.view(),
                             .keys = indexed.keys.plane,
                             .sequences = sequences,
                             .chosen = got.chosen.view()});
    for (int64_t i = 0; i < 42; ++i) {
      const auto expected = whole.row(rows_of[static_cast<size_t>(i)]);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), got.row(i).begin())) << backend->name() << " " << i;
    }
  }
}

TEST(SparseSelect, EqualScoresGoToTheLowestIndices) {
  Inputs in(800, 2, 32);
  for (const auto& backend : cpu_backends()) {
    Indexed indexed(*backend, in, in.tokens);
    for (const float gate : {0.0F, -0.0F}) {  // a zero of either sign is the same zero
      std::fill_n(indexed.gate.as<float>(), 1600, gate);
      const Selected got = select(*backend, rows(indexed.q.view(), 650, 800), rows(indexed.gate.view(), 650, 800),
                                  indexed.keys, 650, 70, false);
      for (int64_t t = 0; t < 150; ++t) {
        for (int32_t i = 0; i < 70; ++i)
          ASSERT_EQ(got.row(t)[static_cast<size_t>(i)], i) << backend->name() << " " << t;
      }
    }
  }
}

/// Scores that grow with the index push everything out again and again; falling ones never do.
TEST(SparseSelect, SortedScoresAreCutRight) {
  for (const auto& backend : cpu_backends()) {
    const Inputs in(2000, 1, 32);
    for (const float slope : {1.0F, -1.0F}) {
      Indexed indexed(*backend, in, in.tokens);
      std::fill_n(indexed.keys.memory.as<float>(), indexed.keys.memory.shape().elements(), 0.0F);
      std::fill_n(indexed.q.as<float>(), 2000 * 32, 0.0F);
      for (int64_t t = 0; t < 2000; ++t) {
        indexed.q.as<float>()[t * 32] = 1.0F;
        indexed.gate.as<float>()[t] = 1.0F;
        *indexed.keys.at(t, 0) = 3000.0F + slope * static_cast<float>(t);
      }
      const Selected got = select(*backend, rows(indexed.q.view(), 1990, 2000), rows(indexed.gate.view(), 1990, 2000),
                                  indexed.keys, 1990, 100, false);
      for (int64_t t = 0; t < 10; ++t) {
        const auto first = static_cast<int32_t>(slope > 0 ? 1990 + t - 99 : 0);
        for (int32_t i = 0; i < 100; ++i) ASSERT_EQ(got.row(t)[static_cast<size_t>(i)], first + i) << backend->name();
      }
    }
  }
}

TEST(SparseSelect, TopkOfTheWholeContextKeepsAll) {
  const Inputs in(130, 2, 32);
  for (const auto& backend : cpu_backends()) {
    const Indexed indexed(*backend, in, in.tokens);
    for (const bool with_scores : {false, true}) {
      const Selected got = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, 130, with_scores);
      for (int32_t t = 0; t < 130; ++t) {
        for (int32_t i = 0; i < 130; ++i) {
          ASSERT_EQ(got.row(t)[static_cast<size_t>(i)], i <= t ? i : -1) << backend->name();
        }
      }
    }
  }
}

TEST(SparseSelect, NanAndInfinityAreOrdered) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& backend : cpu_backends()) {
    Inputs in(200, 1, 32);
    Indexed indexed(*backend, in, in.tokens);
    // One head; each key's only coordinate is its score.
    std::fill_n(indexed.keys.memory.as<float>(), indexed.keys.memory.shape().elements(), 0.0F);
    std::fill_n(indexed.q.as<float>(), 200 * 32, 0.0F);
    for (int64_t t = 0; t < 200; ++t) {
      indexed.q.as<float>()[t * 32] = 1.0F;
      indexed.gate.as<float>()[t] = t == 199 ? std::numeric_limits<float>::quiet_NaN() : 1.0F;
      *indexed.keys.at(t, 0) = t == 3 ? kInfinity : t == 5 ? -kInfinity : static_cast<float>(t % 17) * 0.25F;
    }
    const Selected got = select(*backend, indexed.q.view(), indexed.gate.view(), indexed.keys, 0, 40, true);
    for (int64_t t = 0; t < 200; ++t) expect_best(got, t, t + 1, 40, backend->name());
    EXPECT_TRUE(got.has(198, 3));
    // Every score of the last row is NaN: the lowest indices.
    for (int64_t s = 0; s < 200; ++s) EXPECT_EQ(got.has(199, s), s < 40) << backend->name();
  }
}

}  // namespace
}  // namespace keye::ops
