#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "ops/row_testing.h"

namespace keye::ops {
namespace {

/// |a - b| <= relative |b| + absolute, for values in [-1, 1].
///   f32   the kernels add in another order, their exponential is off by up to 3 units in the last place, and scores of
///         up to about 30 carry their own rounding into the exponent: some 1e-5 altogether
///   bf16  weights are rounded (by up to 2^-8, of values up to 1), and results (by up to 2^-8, perhaps not the same
///   way)
struct Tolerance {
  float relative, absolute;
};
Tolerance tolerance(DType dtype) { return dtype == DType::f32 ? Tolerance{1e-5F, 4e-6F} : Tolerance{0x1p-7F, 0x1p-8F}; }

float at(const ConstView& view, int64_t i) {
  return view.dtype == DType::f32 ? view.as<float>()[i] : static_cast<float>(view.as<BFloat16>()[i]);
}

void expect_near(const ConstView& got, const ConstView& expected, DType arithmetic, const std::string& what) {
  const Tolerance allowed = tolerance(arithmetic);
  ASSERT_EQ(got.elements(), expected.elements());
  float worst = 0;
  int64_t place = 0;
  for (int64_t i = 0; i < got.elements(); ++i) {
    const float excess =
        std::abs(at(got, i) - at(expected, i)) / (allowed.relative * std::abs(at(expected, i)) + allowed.absolute);
    if (!(excess <= worst)) {
      worst = excess;
      place = i;
    }
  }
  EXPECT_LE(worst, 1.0F) << what << ": " << at(got, place) << " at " << place << ", expected " << at(expected, place);
}

Tensor in_dtype(const Tensor& x, DType dtype) {
  Tensor result(dtype, x.shape());
  for (int64_t i = 0; i < x.shape().elements(); ++i) {
    if (dtype == DType::f32) {
      result.as<float>()[i] = x.as<float>()[i];
    } else {
      result.as<BFloat16>()[i] = BFloat16(x.as<float>()[i]);
    }
  }
  return result;
}

struct Heads {
  int q, kv, dim;
  DType dtype = DType::bf16;
  // In the layout rows, of these dtypes; else in keys and values of `dtype`.
  std::optional<DType> k_rows, v_rows;

  std::string name() const {
    const auto rows = [](const std::optional<DType>& plane) { return plane ? dtype_name(*plane) : "packed"; };
    return fmt::format("{} over {} of {}, {}, {} {}", q, kv, dim, dtype_name(dtype), rows(k_rows), rows(v_rows));
  }
  KvPlane plane(PlaneLayout packed, const std::optional<DType>& in_rows) const {
    return {nullptr, in_rows.value_or(dtype), in_rows ? PlaneLayout::rows : packed, kv, dim};
  }
};

/// Keys and values of several sequences, their pages taken in an order that is not theirs.
struct Cache {
  Tensor k_memory, v_memory;
  KvPlane k, v;
  std::vector<std::vector<int32_t>> pages;

  Cache(const Heads& heads, const std::vector<int>& lengths) {
    int32_t count = 1;
    for (const int length : lengths) {
      pages.emplace_back();
      for (int i = 0; i < length; i += kPageTokens) pages.back().push_back(count++);
    }
    for (auto& list : pages) std::reverse(list.begin(), list.end());
    k = heads.plane(PlaneLayout::keys, heads.k_rows);
    v = heads.plane(PlaneLayout::values, heads.v_rows);
    k_memory = Tensor(DType::u8, {count, static_cast<int64_t>(k.page_bytes())});
    v_memory = Tensor(DType::u8, {count, static_cast<int64_t>(v.page_bytes())});
    // What an earlier owner left: large, but finite.
    std::memset(k_memory.view().data, 0x7e, k_memory.view().bytes());
    std::memset(v_memory.view().data, 0x7e, v_memory.view().bytes());
    k.data = k_memory.as<std::byte>();
    v.data = v_memory.as<std::byte>();
  }
  int32_t slot(size_t sequence, int index) const {
    return pages[sequence][static_cast<size_t>(index / kPageTokens)] * kPageTokens + index % kPageTokens;
  }
};

/// A sequence's inputs, for all of its tokens.
struct Sequence {
  Tensor qkv, cos, sin;
  int length;

  Sequence(const Heads& heads, int n, uint32_t seed)
      : qkv(random_tensor({n, (heads.q + 2 * heads.kv) * heads.dim}, seed)),
        cos(random_tensor({n, heads.dim / 2}, seed + 1)),
        sin(random_tensor({n, heads.dim / 2}, seed + 2)),
        length(n) {}
};

/// One sequence of each length, unlike each other.
std::vector<Sequence> make_sequences(const Heads& heads, const std::vector<int>& lengths) {
  std::vector<Sequence> result;
  for (const int n : lengths) result.emplace_back(heads, n, static_cast<uint32_t>(10 + 3 * result.size()));
  return result;
}

/// Rows of one sequence in a step.
struct Share {
  size_t sequence;
  int rows;
};
using Step = std::vector<Share>;

/// The sequences' outputs after some steps, and what they left in the cache.
struct Attended {
  Cache cache;
  std::vector<Tensor> q;    // [length, h, d]
  std::vector<Tensor> out;  // [length, h d]

  Attended(Backend& backend, const Heads& heads, const std::vector<Sequence>& sequences, const std::vector<Step>& steps)
      : cache(heads, lengths(sequences)) {
    const Tensor q_norm = random_tensor({heads.dim}, 1, 4.0F);  // sharp: scores of up to about 30
    const Tensor k_norm = random_tensor({heads.dim}, 2);
    std::vector<int> done(sequences.size(), 0);
    for (const Sequence& s : sequences) {
      q.emplace_back(heads.dtype, Shape{s.length, heads.q, heads.dim});
      out.emplace_back(heads.dtype, Shape{s.length, heads.q * heads.dim});
    }
    for (const Step& step : steps) {
      int n = 0;
      for (const Share& share : step) n += share.rows;
      Tensor qkv(DType::f32, {n, (heads.q + 2 * heads.kv) * heads.dim});
      Tensor cos(DType::f32, {n, heads.dim / 2});
      Tensor sin(DType::f32, {n, heads.dim / 2});
      Tensor step_q(heads.dtype, {n, heads.q, heads.dim});
      Tensor step_out(heads.dtype, {n, heads.q * heads.dim});
      std::vector<int32_t> slots;
      std::vector<SequenceRows> shares;
      for (const Share& share : step) {
        const Sequence& s = sequences[share.sequence];
        const int context = done[share.sequence];
        const auto row = static_cast<int32_t>(slots.size());
        copy(rows(s.qkv.view(), context, context + share.rows), rows(qkv.view(), row, row + share.rows));
        copy(rows(s.cos.view(), context, context + share.rows), rows(cos.view(), row, row + share.rows));
        copy(rows(s.sin.view(), context, context + share.rows), rows(sin.view(), row, row + share.rows));
        for (int i = 0; i < share.rows; ++i) slots.push_back(cache.slot(share.sequence, context + i));
        shares.push_back({row, share.rows, context, cache.pages[share.sequence]});
      }
      attention_input(backend, {.qkv = qkv.view(),
                                .q_norm = q_norm.view(),
                                .k_norm = k_norm.view(),
                                .eps = 1e-6F,
                                .cos = cos.view(),
                                .sin = sin.view(),
                                .slots = slots,
                                .q = step_q.view(),
                                .k = cache.k,
                                .v = cache.v});
      paged_attention(backend, {.q = step_q.view(),
                                .k = cache.k,
                                .v = cache.v,
                                .sequences = shares,
                                .scale = scale(heads),
                                .out = step_out.view()});
      for (size_t i = 0; i < step.size(); ++i) {
        const Share& share = step[i];
        const int32_t row = shares[i].first_row;
        int& context = done[share.sequence];
        copy(rows(step_q.view(), row, row + share.rows), rows(q[share.sequence].view(), context, context + share.rows));
        copy(rows(step_out.view(), row, row + share.rows),
             rows(out[share.sequence].view(), context, context + share.rows));
        context += share.rows;
      }
    }
  }

  static float scale(const Heads& heads) { return 1.0F / std::sqrt(static_cast<float>(heads.dim)); }
  static std::vector<int> lengths(const std::vector<Sequence>& sequences) {
    std::vector<int> result;
    for (const Sequence& s : sequences) result.push_back(s.length);
    return result;
  }
  static void copy(const ConstView& from, const View& to) { std::memcpy(to.data, from.data, from.bytes()); }
};

/// One sequence after the other, each in steps of up to `rows`.
std::vector<Step> in_steps(const std::vector<Sequence>& sequences, int rows) {
  std::vector<Step> steps;
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int done = 0; done < sequences[s].length; done += rows) {
      steps.push_back({{s, std::min(rows, sequences[s].length - done)}});
    }
  }
  return steps;
}

const Heads kOddHeads[] = {{1, 1, 2},  {2, 2, 24},  {4, 2, 32},  {8, 2, 36}, {8, 1, 64},
                           {3, 3, 72}, {8, 4, 128}, {6, 2, 256}, {50, 1, 18}};

/// Both dtypes of every odd shape, packed, in rows, and, of small shapes, quantised.
template <class Body>
void for_each_heads(Body&& body) {
  for (Heads heads : kOddHeads) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      heads.dtype = dtype;
      heads.k_rows = heads.v_rows = std::nullopt;
      body(heads);
      heads.k_rows = heads.v_rows = dtype;
      body(heads);
      if (heads.q * heads.dim > 300) continue;
      heads.k_rows = DType::i8;
      heads.v_rows = DType::f8_e4m3;
      body(heads);
      std::swap(heads.k_rows, heads.v_rows);
      body(heads);
    }
  }
}

TEST(AttentionInput, EveryBackendWritesTheReferencesBits) {
  auto ref = make_ref_backend();
  const auto backends = backends_of_two_threads();
  for_each_heads([&](const Heads& heads) {
    const auto sequences = make_sequences(heads, {70, 1, 129});
    const Step whole = {{0, 70}, {1, 1}, {2, 129}};
    const Attended expected(*ref, heads, sequences, {whole});
    for (const auto& backend : backends) {
      const Attended got(*backend, heads, sequences, {whole});
      for (size_t s = 0; s < sequences.size(); ++s) {
        EXPECT_TRUE(same_bits(got.q[s].view(), expected.q[s].view())) << backend->name() << ", " << heads.name();
      }
      EXPECT_TRUE(same_bits(got.cache.k_memory.view(), expected.cache.k_memory.view()))
          << backend->name() << heads.name();
      EXPECT_TRUE(same_bits(got.cache.v_memory.view(), expected.cache.v_memory.view()))
          << backend->name() << heads.name();
    }
  });
}

TEST(AttentionInput, NormalisesThenRotates) {
  // One head of dim 2: q = (3, 4), mean square 12.5, turned by 90 degrees.
  auto ref = make_ref_backend();
  const Heads heads{1, 1, 2, DType::f32};
  Cache cache(heads, {1});
  float qkv[6] = {3, 4, 5, 0, 7, 8};
  float norm[2] = {2, 1};
  float cos = 0;
  float sin = 1;
  float q[2];
  const int32_t slot = cache.slot(0, 0);
  attention_input(*ref, {.qkv = {qkv, DType::f32, {1, 6}},
                         .q_norm = {norm, DType::f32, {2}},
                         .k_norm = {norm, DType::f32, {2}},
                         .eps = 0,
                         .cos = {&cos, DType::f32, {1, 1}},
                         .sin = {&sin, DType::f32, {1, 1}},
                         .slots = {&slot, 1},
                         .q = {q, DType::f32, {1, 1, 2}},
                         .k = cache.k,
                         .v = cache.v});
  const float rms = std::sqrt(12.5F);
  EXPECT_NEAR(q[0], -4 / rms, 1e-6);
  EXPECT_NEAR(q[1], 2 * 3 / rms, 1e-6);
  const auto* keys = reinterpret_cast<const float*>(cache.k.block(slot / kPageTokens, 0));
  const auto* values = reinterpret_cast<const float*>(cache.v.block(slot / kPageTokens, 0));
  EXPECT_NEAR(keys[0], 0, 1e-6);
  EXPECT_NEAR(keys[kPageTokens], 2 * std::sqrt(2.0F), 1e-6);
  EXPECT_EQ(values[0], 7);
  EXPECT_EQ(values[1], 8);
  EXPECT_EQ(keys[1], 0) << "slot 0 clears what an earlier owner left";
  EXPECT_EQ(values[2], 0);
}

/// Channel c of the token in slot j of a head's block.
double element(const KvPlane& plane, int32_t place, int head, int64_t c) {
  std::byte* block = plane.block(place / kPageTokens, head);
  const int j = place % kPageTokens;
  const ConstView elements{block, plane.dtype, {plane.dim * kPageTokens}};
  if (plane.layout == PlaneLayout::rows) {
    float x = 0;
    convert_to_float(plane.dtype, plane.row(block, j) + static_cast<size_t>(c) * dtype_bytes(plane.dtype), &x, 1);
    return x * (plane.scaled() ? static_cast<double>(plane.scales(block)[j]) : 1.0);
  }
  const bool f32 = plane.dtype == DType::f32;
  if (plane.layout == PlaneLayout::keys) {
    return at(elements, f32 ? c * kPageTokens + j : ((c / 2) * kPageTokens + j) * 2 + c % 2);
  }
  return at(elements, f32 ? j * plane.dim + c : ((j / 2) * plane.dim + c) * 2 + j % 2);
}

/// Softmax over the indices that are listed, in double, from rows of q [h d] and the cache's own contents.
std::vector<double> attend(const Heads& heads, const Attended& run, size_t sequence, int index, int head,
                           std::span<const int32_t> keys) {
  const int64_t d = heads.dim;
  const int kv = head / (heads.q / heads.kv);
  std::vector<double> mix(static_cast<size_t>(d), 0.0);
  std::vector<double> scores;
  std::vector<int> slots;
  for (const int32_t i : keys) {
    slots.push_back(run.cache.slot(sequence, i));
    double dot = 0;
    for (int64_t c = 0; c < d; ++c) {
      dot += at(run.q[sequence].view(), (int64_t{index} * heads.q + head) * d + c) *
             element(run.cache.k, slots.back(), kv, c);
    }
    scores.push_back(dot * Attended::scale(heads));
  }
  if (slots.empty()) return mix;
  const double most = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    const double weight = std::exp(scores[i] - most);
    sum += weight;
    for (int64_t c = 0; c < d; ++c) mix[static_cast<size_t>(c)] += weight * element(run.cache.v, slots[i], kv, c);
  }
  for (double& x : mix) x /= sum;
  return mix;
}

std::vector<int32_t> first_indices(int count) {
  std::vector<int32_t> result(static_cast<size_t>(count));
  std::iota(result.begin(), result.end(), 0);
  return result;
}

TEST(PagedAttention, AgreesWithTheDefinition) {
  auto ref = make_ref_backend();
  const auto backends = backends_of_two_threads();
  for_each_heads([&](const Heads& heads) {
    const auto sequences =
        heads.q > 8 ? make_sequences(heads, {1, 65, 130}) : make_sequences(heads, {1, 2, 63, 64, 65, 150});
    Step all;
    for (size_t s = 0; s < sequences.size(); ++s) all.push_back({s, sequences[s].length});
    const Attended reference(*ref, heads, sequences, {all});
    std::vector<Tensor> expected;
    for (size_t s = 0; s < sequences.size(); ++s) {
      expected.emplace_back(DType::f32, Shape{sequences[s].length, heads.q * heads.dim});
      float* to = expected.back().as<float>();
      for (int i = 0; i < sequences[s].length; ++i) {
        for (int head = 0; head < heads.q; ++head) {
          for (const double x : attend(heads, reference, s, i, head, first_indices(i + 1)))
            *to++ = static_cast<float>(x);
        }
      }
      expect_near(reference.out[s].view(), expected[s].view(), heads.dtype, "ref, " + heads.name());
    }
    for (const auto& backend : backends) {
      const Attended got(*backend, heads, sequences, {all});
      for (size_t s = 0; s < sequences.size(); ++s) {
        expect_near(got.out[s].view(), expected[s].view(), heads.dtype,
                    fmt::format("{}, {}, length {}", backend->name(), heads.name(), sequences[s].length));
      }
    }
  });
}

/// The one promise behind prefix caches, chunked prefill and batching: a row's bits depend on its own sequence alone.
TEST(PagedAttention, BitsDoNotDependOnChunksBatchesOrThreads) {
  for (const std::string isa : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    auto one = make_cpu_backend({.threads = 1, .isa = isa});
    if (!one.has_value()) continue;
    for (const Heads& heads : {Heads{4, 2, 24, DType::bf16}, Heads{8, 1, 36, DType::f32}}) {
      // Longer than a chunk of kChunkPages pages, unless that takes plain loops too long.
      const int length = isa == "scalar" ? 130 : 1100;
      const auto sequences = make_sequences(heads, {length, 90, 3});
      const Attended whole(**one, heads, sequences, in_steps(sequences, length));

      const auto expect_same = [&](const Attended& got, const std::string& what) {
        for (size_t s = 0; s < sequences.size(); ++s) {
          EXPECT_TRUE(same_bits(got.out[s].view(), whole.out[s].view())) << isa << ", " << heads.name() << ", " << what;
        }
        EXPECT_TRUE(same_bits(got.cache.k_memory.view(), whole.cache.k_memory.view())) << isa << ", " << what;
        EXPECT_TRUE(same_bits(got.cache.v_memory.view(), whole.cache.v_memory.view())) << isa << ", " << what;
      };
      for (const int threads : {1, 2, 3}) {
        auto backend = make_cpu_backend({.threads = threads, .isa = isa}).value();
        for (const int rows : {1, 7, 64, length}) {
          // Many small steps take long, above all where threads outnumber processors; the ragged steps below have some.
          if (rows == 1 && (threads != 2 || heads.dtype != DType::bf16)) continue;
          if (rows == 7 && threads == 3) continue;
          expect_same(Attended(*backend, heads, sequences, in_steps(sequences, rows)),
                      fmt::format("{} threads, steps of {}", threads, rows));
        }
        std::vector<Step> ragged = {{{2, 1}, {0, length - 80}, {1, 5}}};
        for (int i = 0; i < 80; ++i) ragged.push_back({{1, 1}, {0, 1}});
        ragged.push_back({{1, 5}, {2, 2}});
        expect_same(Attended(*backend, heads, sequences, ragged), fmt::format("{} threads, ragged", threads));
      }
    }
  }
}

TEST(PagedAttention, RowsGiveThePackedPlanesBits) {
  for (const auto& backend : backends_of_two_threads()) {
    for (Heads heads : {Heads{4, 2, 24}, Heads{6, 2, 36}, Heads{8, 1, 130}, Heads{16, 2, 128}}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        heads.dtype = dtype;
        heads.k_rows = heads.v_rows = std::nullopt;
        const auto sequences = make_sequences(heads, {200, 1, 65});
        const Step all = {{0, 200}, {1, 1}, {2, 65}};
        const Attended packed(*backend, heads, sequences, {all});
        for (const auto& [k, v] : {std::pair<bool, bool>{true, true}, {true, false}, {false, true}}) {
          heads.k_rows = k ? std::optional(dtype) : std::nullopt;
          heads.v_rows = v ? std::optional(dtype) : std::nullopt;
          const Attended rows(*backend, heads, sequences, {all});
          for (size_t s = 0; s < sequences.size(); ++s) {
            EXPECT_TRUE(same_bits(rows.out[s].view(), packed.out[s].view())) << backend->name() << heads.name();
          }
        }
      }
    }
  }
}

/// Ascending indices for every row of one sequence of n tokens, up to `most` each, then -1.
struct Choice {
  Tensor chosen;

  template <class Choose>
  Choice(int n, int most, Choose&& choose) : chosen(DType::i32, {n, most}) {
    for (int i = 0; i < n; ++i) {
      const std::vector<int32_t> row = choose(i);
      std::fill_n(chosen.as<int32_t>() + i * most, most, -1);
      std::copy(row.begin(), row.end(), chosen.as<int32_t>() + i * most);
    }
  }
  std::span<const int32_t> row(int i) const {
    const auto most = static_cast<size_t>(chosen.shape()[1]);
    const int32_t* first = chosen.as<int32_t>() + static_cast<size_t>(i) * most;
    return {first, std::find(first, first + most, -1)};
  }
};

/// So many of [0, i], or all of them.
Choice random_choice(int n, int most) {
  std::mt19937 generator(7);
  return {n, most, [&](int i) {
            std::vector<int32_t> all = first_indices(i + 1);
            std::vector<int32_t> row;
            std::sample(all.begin(), all.end(), std::back_inserter(row), i % 7 == 3 ? most / 3 + 1 : most, generator);
            return row;
          }};
}

/// The rows [begin, end) of the sequence that an Attended has in its cache, with a choice.
Tensor attend_chosen(Backend& backend, const Heads& heads, const Attended& run, const Choice& choice, int begin,
                     int end) {
  Tensor out(heads.dtype, {end - begin, heads.q * heads.dim});
  const SequenceRows part{0, end - begin, begin, run.cache.pages[0]};
  paged_attention(backend, {.q = rows(run.q[0].view(), begin, end),
                            .k = run.cache.k,
                            .v = run.cache.v,
                            .sequences = {&part, 1},
                            .scale = Attended::scale(heads),
                            .chosen = rows(choice.chosen.view(), begin, end),
                            .out = out.view()});
  return out;
}

TEST(PagedAttention, MixesOnlyWhatIsChosen) {
  auto ref = make_ref_backend();
  const auto backends = backends_of_two_threads();
  const int n = 230;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [k, v] : {std::pair{dtype, dtype}, {DType::i8, DType::f8_e4m3}, {DType::f8_e4m3, dtype}}) {
      const Heads heads{4, 2, 40, dtype, k, v};
      const Attended run(*ref, heads, make_sequences(heads, {n}), {{{0, n}}});
      for (const int most : {1, 63, 100, 230}) {
        const Choice choice = random_choice(n, most);
        Tensor expected(DType::f32, run.out[0].shape());
        float* to = expected.as<float>();
        for (int i = 0; i < n; ++i) {
          for (int head = 0; head < heads.q; ++head) {
            for (const double x : attend(heads, run, 0, i, head, choice.row(i))) *to++ = static_cast<float>(x);
          }
        }
        expect_near(attend_chosen(*ref, heads, run, choice, 0, n).view(), expected.view(), dtype, "ref");
        for (const auto& backend : backends) {
          expect_near(attend_chosen(*backend, heads, run, choice, 0, n).view(), expected.view(), dtype,
                      fmt::format("{}, {}, {} keys", backend->name(), heads.name(), most));
        }
      }
    }
  }
}

/// What sparse attention promises: within top-k it is dense attention, bit for bit.
TEST(PagedAttention, AChoiceOfAllGivesTheBitsOfNoChoice) {
  for (const auto& backend : backends_of_two_threads()) {
    const int n = backend->name().find("scalar") == std::string_view::npos ? 1300 : 140;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const DType plane : {dtype, DType::i8}) {
        const Heads heads{8, 2, 36, dtype, plane, plane};
        const Attended run(*backend, heads, make_sequences(heads, {n}), {{{0, n}}});
        const Choice all(n, n, [](int i) { return first_indices(i + 1); });
        EXPECT_TRUE(same_bits(attend_chosen(*backend, heads, run, all, 0, n).view(), run.out[0].view()))
            << backend->name() << ", " << heads.name();
      }
    }
  }
}

TEST(PagedAttention, ChosenRowsDoNotDependOnChunksOrThreads) {
  for (const std::string isa : {"avx2", "avx512", "avx512_bf16"}) {
    auto one = make_cpu_backend({.threads = 1, .isa = isa});
    if (!one.has_value()) continue;
    for (const DType plane : {DType::bf16, DType::f8_e4m3}) {
      const Heads heads{16, 2, 64, DType::bf16, plane, plane};
      const int n = 2600;
      const Attended run(**one, heads, make_sequences(heads, {n}), {{{0, n}}});
      const Choice choice = random_choice(n, 1100);  // more than a chunk of kChunkPages pages
      const Tensor expected = attend_chosen(**one, heads, run, choice, 2500, n);
      for (const int threads : {1, 2, 3}) {
        auto backend = make_cpu_backend({.threads = threads, .isa = isa}).value();
        for (const int step : {1, 7, 100}) {
          for (int i = 0; i < 100; i += step) {
            const int end = std::min(i + step, 100);
            EXPECT_TRUE(same_bits(attend_chosen(*backend, heads, run, choice, 2500 + i, 2500 + end).view(),
                                  rows(expected.view(), i, end)))
                << isa << ", " << threads << " threads, row " << i;
          }
        }
      }
    }
  }
}

/// Rows of one tile, of which some stop pages before the others, over values that are zeros of both signs and numbers
/// so small that their products are subnormal: where adding "nothing" could show.
TEST(PagedAttention, TinyValuesKeepTheirBitsBesideLongerRows) {
  for (const auto& backend : backends_of_two_threads()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Heads heads{2, 1, 20, dtype};
      const int n = 200;
      Attended run(*backend, heads, make_sequences(heads, {n}), {{{0, n}}});
      const auto count = static_cast<int64_t>(run.cache.v_memory.view().bytes() / dtype_bytes(dtype));
      Tensor values = in_dtype(random_tensor({count}, 5, 3e-38F), dtype);
      for (int64_t i = 0; i < count; i += 3) {
        if (dtype == DType::f32) {
          values.as<float>()[i] = -0.0F;
        } else {
          values.as<BFloat16>()[i] = BFloat16(-0.0F);
        }
      }
      std::memcpy(run.cache.v_memory.view().data, values.view().data, values.view().bytes());
      const auto attend_rows = [&](int begin, int end, const View& out) {
        const SequenceRows part{0, end - begin, begin, run.cache.pages[0]};
        paged_attention(*backend, {.q = rows(run.q[0].view(), begin, end),
                                   .k = run.cache.k,
                                   .v = run.cache.v,
                                   .sequences = {&part, 1},
                                   .scale = Attended::scale(heads),
                                   .out = out});
      };
      Tensor together(dtype, {n, heads.q * heads.dim});
      Tensor alone(dtype, {n, heads.q * heads.dim});
      attend_rows(0, n, together.view());
      for (int i = 0; i < n; ++i) attend_rows(i, i + 1, rows(alone.view(), i, i + 1));
      EXPECT_TRUE(same_bits(together.view(), alone.view())) << backend->name() << ", " << dtype_name(dtype);
    }
  }
}

struct VisionCase {
  int heads, dim;
  std::vector<int32_t> segments;
};

Tensor run_vision(Backend& backend, const VisionCase& c, const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                  DType out) {
  Tensor result(out, {qkv.shape()[0], c.heads * c.dim});
  vision_attention(backend, {.qkv = qkv.view(),
                             .cos = cos.view(),
                             .sin = sin.view(),
                             .segments = c.segments,
                             .heads = c.heads,
                             .scale = 2.0F / std::sqrt(static_cast<float>(c.dim)),
                             .out = result.view()});
  return result;
}

TEST(VisionAttention, EveryBackendAgreesWithTheReference) {
  auto ref = make_ref_backend();
  const auto backends = backends_of_two_threads();
  for (const VisionCase& c : {VisionCase{3, 72, {0, 1, 65, 65, 150}}, VisionCase{2, 16, {0, 64, 128}},
                              VisionCase{1, 36, {0, 200}}, VisionCase{2, 2, {0, 7}}, VisionCase{1, 64, {0}}}) {
    const int64_t p = c.segments.back();
    const Tensor cos = random_tensor({p, c.dim / 2}, 1);
    const Tensor sin = random_tensor({p, c.dim / 2}, 2);
    for (const DType in : {DType::f32, DType::bf16}) {
      const Tensor qkv = in_dtype(random_tensor({p, 3, c.heads, c.dim}, 3), in);
      for (const DType out : {DType::f32, DType::bf16}) {
        const Tensor expected = run_vision(*ref, c, qkv, cos, sin, out);
        for (const auto& backend : backends) {
          expect_near(
              run_vision(*backend, c, qkv, cos, sin, out).view(), expected.view(), out,
              fmt::format("{}, {} x {}, {} to {}", backend->name(), c.heads, c.dim, dtype_name(in), dtype_name(out)));
        }
      }
    }
  }
}

/// Two patches of one head of dim 2, worked by hand: q turned by 90 degrees onto k.
TEST(VisionAttention, RotatesThenMixes) {
  auto ref = make_ref_backend();
  const VisionCase c{1, 2, {0, 2}};
  Tensor qkv(DType::f32, {2, 3, 1, 2});
  const float values[12] = {1, 0, 1, 0, 10, 20, /**/ 1, 0, 1, 0, 30, 40};
  std::copy_n(values, 12, qkv.as<float>());
  Tensor cos(DType::f32, {2, 1});
  Tensor sin(DType::f32, {2, 1});
  cos.as<float>()[0] = 1;  // patch 0 stays, patch 1 turns
  sin.as<float>()[1] = 1;
  const Tensor out = run_vision(*ref, c, qkv, cos, sin, DType::f32);
  const float score = 2.0F / std::sqrt(2.0F);  // each patch meets itself with 1, the other with 0
  const float self = std::exp(score) / (std::exp(score) + 1);
  EXPECT_NEAR(out.as<float>()[0], 10 * self + 30 * (1 - self), 1e-4);
  EXPECT_NEAR(out.as<float>()[1], 20 * self + 40 * (1 - self), 1e-4);
  EXPECT_NEAR(out.as<float>()[2], 30 * self + 10 * (1 - self), 1e-4);
}

TEST(VisionAttention, BitsDoNotDependOnOtherSegmentsOrThreads) {
  const VisionCase both{2, 72, {0, 100, 1300}};
  const Tensor cos = random_tensor({1300, 36}, 1);
  const Tensor sin = random_tensor({1300, 36}, 2);
  const Tensor qkv = random_tensor({1300, 3, 2, 72}, 3);
  const VisionCase second{2, 72, {0, 1200}};
  Tensor cos2(DType::f32, {1200, 36});
  Tensor sin2(DType::f32, {1200, 36});
  Tensor qkv2(DType::f32, {1200, 3, 2, 72});
  Attended::copy(rows(cos.view(), 100, 1300), cos2.view());
  Attended::copy(rows(sin.view(), 100, 1300), sin2.view());
  Attended::copy(rows(qkv.view(), 100, 1300), qkv2.view());
  for (const std::string isa : {"avx2", "avx512", "avx512_bf16"}) {
    auto one = make_cpu_backend({.threads = 1, .isa = isa});
    if (!one.has_value()) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor expected = run_vision(**one, both, qkv, cos, sin, dtype);
      const Tensor alone = run_vision(**one, second, qkv2, cos2, sin2, dtype);
      EXPECT_TRUE(same_bits(alone.view(), rows(expected.view(), 100, 1300))) << isa;
      for (const int threads : {2, 3}) {
        auto backend = make_cpu_backend({.threads = threads, .isa = isa}).value();
        EXPECT_TRUE(same_bits(run_vision(*backend, both, qkv, cos, sin, dtype).view(), expected.view())) << isa;
      }
    }
  }
}

TEST(AttentionDeathTest, RefusesWhatDoesNotFit) {
  auto ref = make_ref_backend();
  const Heads heads{2, 1, 4, DType::f32};
  const Attended run(*ref, heads, make_sequences(heads, {65}), {{{0, 65}}});
  Tensor out(DType::f32, {65, 8});
  SequenceRows rows{0, 65, 0, run.cache.pages[0]};
  PagedAttention op{
      .q = run.q[0].view(), .k = run.cache.k, .v = run.cache.v, .sequences = {&rows, 1}, .scale = 1, .out = out.view()};
  const auto call = [&] { paged_attention(*ref, op); };
  rows.context = 64;
  EXPECT_DEATH(call(), "2 pages for 129 tokens");
  rows.context = 0;
  rows.first_row = 1;
  EXPECT_DEATH(call(), "rows \\[1, \\+65\\) of 65");
  rows.first_row = 0;
  op.v = run.cache.k;
  EXPECT_DEATH(call(), "v: wrong layout");
  op.v = run.cache.v;
  const Tensor chosen(DType::i32, {65, 3});
  op.chosen = chosen.view();
  EXPECT_DEATH(call(), "a choice of keys not in rows");
  op.chosen = keye::rows(chosen.view(), 0, 64);
  EXPECT_DEATH(call(), "chosen is");
}

}  // namespace
}  // namespace keye::ops
