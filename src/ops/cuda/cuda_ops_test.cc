// Every op of the CUDA backend beside the reference, and the bits of a row in every company: over the emulator, or,
// built with KEYE_CUDA_DEVICE_TEST, over the device of this machine.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "ops/backend.h"

namespace keye::ops {
namespace {

Backend& device() {
#ifdef KEYE_CUDA_DEVICE_TEST
  static const auto backend = make_cuda_backend({.threads = 2}).value();
#else
  static const auto backend = make_emulated_cuda_backend({.threads = 1});
#endif
  return *backend;
}

#ifdef KEYE_CUDA_DEVICE_TEST
constexpr bool kLarge = true;  // the device is fast
#else
constexpr bool kLarge = false;
#endif

Tensor random(DType dtype, Shape shape, uint32_t seed, float scale = 1.0F) {
  Tensor result(dtype, shape);
  std::mt19937 generator(seed);
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const float value = scale * (static_cast<float>(generator() >> 8) * 0x1p-23F - 1.0F);
    if (dtype == DType::bf16) {
      result.as<BFloat16>()[i] = BFloat16(value);
    } else {
      result.as<float>()[i] = value;
    }
  }
  return result;
}

Tensor numbers(const std::vector<int32_t>& values) {
  Tensor result(DType::i32, {static_cast<int64_t>(values.size())});
  std::memcpy(result.view().data, values.data(), values.size() * sizeof(int32_t));
  return result;
}

/// A copy in the device's memory ...
Tensor put(const ConstView& host) {
  Tensor result = device().tensor(host.dtype, host.shape);
  device().write(result.view(), host.data);
  return result;
}
Tensor put(const Tensor& host) { return put(host.view()); }
/// ... and back.
Tensor get(const Tensor& on_device) {
  Tensor result(on_device.dtype(), on_device.shape());
  device().read(on_device.view(), result.view().data);
  return result;
}
/// Memory that an op must write all of: NaNs, or indices that are none.
Tensor blank(DType dtype, Shape shape) {
  Tensor host(dtype, shape);
  std::memset(host.view().data, 0xff, host.view().bytes());
  return put(host);
}

float at(const ConstView& view, int64_t i) {
  if (view.dtype == DType::i32) return static_cast<float>(view.as<int32_t>()[i]);
  float value = 0;
  convert_to_float(view.dtype,
                   static_cast<const std::byte*>(view.data) + static_cast<size_t>(i) * dtype_bytes(view.dtype), &value,
                   1);
  return value;
}

/// |got - expected| in the norm, relative; NaN or a missing element is infinitely far.
double distance(const ConstView& got, const ConstView& expected) {
  double error = 0;
  double norm = 0;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    const double x = at(got, i);
    const double y = at(expected, i);
    if (std::isnan(x)) return INFINITY;
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}
double tolerance(DType dtype) { return dtype == DType::bf16 ? 6e-3 : 2e-5; }

bool same(const ConstView& a, const ConstView& b) {
  return a.dtype == b.dtype && a.elements() == b.elements() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

// -- matrix products ---------------------------------------------------------

struct Matrices {
  std::vector<Tensor> stored;
  std::vector<PackedMatrix> on_device, on_host;

  Matrices(Backend& ref, int count, int64_t outputs, int64_t inputs, bool gated, DType dtype) {
    for (int i = 0; i < count; ++i) {
      stored.push_back(random(dtype, {outputs, inputs}, 77U + static_cast<uint32_t>(i)));
      const ConstView view = std::as_const(stored.back()).view();
      const auto block = [&](int64_t begin, int64_t end) {
        const ConstView part = rows(view, begin, end);
        return StridedMatrix{part.data, dtype, end - begin, inputs, inputs, 1};
      };
      std::vector<StridedMatrix> blocks;
      if (gated) {
        blocks = {block(0, outputs / 2), block(outputs / 2, outputs)};
      } else {
        blocks = {block(0, outputs / 3), block(outputs / 3, outputs)};
      }
      on_device.push_back(pack(device(), {blocks, gated, dtype}));
      on_host.push_back(pack(ref, {blocks, gated, dtype}));
    }
  }
};

TEST(CudaOps, Linear) {
  const auto ref = make_ref_backend();
  struct Case {
    int64_t n, outputs, inputs;
  };
  std::vector<Case> cases = {{1, 8, 8},    {1, 40, 72},  {2, 130, 64},  {7, 24, 200},
                             {9, 257, 72}, {33, 48, 36}, {65, 130, 64}, {130, 48, 588}};
  if (kLarge) cases.insert(cases.end(), {{1, 1280, 2048}, {64, 256, 4096}, {300, 512, 2048}, {1000, 200, 1152}});
  int turn = 0;
  for (const Case& c : cases) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const Activation activation :
           {Activation::none, Activation::silu_mul, Activation::gelu_tanh, Activation::gelu_erf}) {
        const bool gated = activation == Activation::silu_mul;
        const int64_t outputs = gated ? c.outputs / 2 * 2 : c.outputs;
        const int64_t columns = gated ? outputs / 2 : outputs;
        const Matrices w(*ref, 1, outputs, c.inputs, gated, dtype);
        const Tensor x = random(dtype, {c.n, c.inputs}, 5, 0.5F);
        const Tensor bias = random(DType::f32, {outputs}, 6);
        const bool accumulate = ++turn % 3 == 0;
        const bool has_bias = !gated && turn % 2 == 0;
        const DType out_dtype = accumulate || turn % 5 == 0 ? DType::f32 : dtype;
        Tensor expected = random(out_dtype, {c.n, columns}, 7);
        Tensor got = accumulate ? put(expected) : blank(out_dtype, {c.n, columns});
        const Tensor x_device = put(x);
        const Tensor bias_device = put(bias);
        linear(device(), {.x = x_device.view(),
                          .w = w.on_device[0],
                          .bias = has_bias ? std::as_const(bias_device).view() : ConstView{},
                          .activation = activation,
                          .accumulate = accumulate,
                          .out = got.view()});
        linear(*ref, {.x = x.view(),
                      .w = w.on_host[0],
                      .bias = has_bias ? bias.view() : ConstView{},
                      .activation = activation,
                      .accumulate = accumulate,
                      .out = expected.view()});
        EXPECT_LT(distance(get(got).view(), expected.view()), tolerance(out_dtype))
            << c.n << " x " << c.inputs << " -> " << outputs << " " << dtype_name(dtype) << " "
            << static_cast<int>(activation);
        // A row alone has the bits that it has among others.
        if (accumulate) continue;
        const Tensor host = get(got);
        for (const int64_t row : {int64_t{0}, c.n - 1}) {
          const Tensor one = put(rows(x.view(), row, row + 1));
          Tensor alone = blank(out_dtype, {1, columns});
          linear(device(), {.x = one.view(),
                            .w = w.on_device[0],
                            .bias = has_bias ? std::as_const(bias_device).view() : ConstView{},
                            .activation = activation,
                            .out = alone.view()});
          EXPECT_TRUE(same(get(alone).view(), rows(host.view(), row, row + 1))) << c.n << " " << row;
        }
      }
    }
  }
}

TEST(CudaOps, GroupedLinear) {
  const auto ref = make_ref_backend();
  std::vector<std::vector<int32_t>> all_sizes = {{0, 1, 0, 0, 3, 1}, {5, 0, 70, 2}, {9}};
  if (kLarge) all_sizes.push_back({300, 0, 1, 129, 64, 500, 0, 2});
  for (const std::vector<int32_t>& sizes : all_sizes) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const bool gated : {false, true}) {
        for (const bool gathers : {false, true}) {
          const int64_t inputs = kLarge ? 768 : 72;
          const int64_t outputs = kLarge ? 512 : 80;
          std::vector<int32_t> offsets = {0};
          std::vector<int32_t> rows_at;
          for (const int32_t size : sizes) {
            for (int32_t i = 0; i < size; ++i) rows_at.push_back((i * 7 + size) % 11);
            offsets.push_back(static_cast<int32_t>(rows_at.size()));
          }
          const auto p = static_cast<int64_t>(rows_at.size());
          const Matrices w(*ref, static_cast<int>(sizes.size()), outputs, inputs, gated, dtype);
          const Tensor x = random(dtype, {gathers ? 11 : p, inputs}, 8, 0.5F);
          const Tensor rows_host = numbers(rows_at);
          const Tensor offsets_host = numbers(offsets);
          const Activation activation = gated ? Activation::silu_mul : Activation::none;
          Tensor expected(dtype, {p, gated ? outputs / 2 : outputs});
          grouped_linear(*ref, {x.view(), w.on_host, gathers ? rows_host.view() : ConstView{}, offsets_host.view(),
                                activation, expected.view()});
          Tensor got = blank(dtype, expected.shape());
          const Tensor x_device = put(x);
          const Tensor rows_device = put(rows_host);
          const Tensor offsets_device = put(offsets_host);
          grouped_linear(device(),
                         {x_device.view(), w.on_device, gathers ? std::as_const(rows_device).view() : ConstView{},
                          offsets_device.view(), activation, got.view()});
          EXPECT_LT(distance(get(got).view(), expected.view()), tolerance(dtype)) << p << " " << gated << gathers;
          // The same as a product of its own.
          const Tensor host = get(got);
          for (size_t e = 0; e < sizes.size(); ++e) {
            if (sizes[e] == 0) continue;
            const int64_t place = offsets[e + 1] - 1;
            const int64_t row = gathers ? rows_at[static_cast<size_t>(place)] : place;
            const Tensor one = put(rows(x.view(), row, row + 1));
            Tensor alone = blank(dtype, {1, expected.shape()[1]});
            linear(device(),
                   {.x = one.view(), .w = w.on_device[e], .bias = {}, .activation = activation, .out = alone.view()});
            EXPECT_TRUE(same(get(alone).view(), rows(host.view(), place, place + 1))) << e;
          }
        }
      }
    }
  }
}

// -- rows --------------------------------------------------------------------

TEST(CudaOps, Norms) {
  const auto ref = make_ref_backend();
  for (const int64_t c : {4, 37, 64, 1152, 2048, 2050}) {
    for (const int64_t n : {1, 3}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Tensor x = random(DType::f32, {n, c}, 3, 4.0F);
        const Tensor weight = random(DType::f32, {c}, 4);
        const Tensor bias = random(DType::f32, {c}, 5);
        const Tensor on[3] = {put(x), put(weight), put(bias)};
        Tensor expected(dtype, {n, c});
        Tensor got = blank(dtype, {n, c});
        Tensor exact(DType::f32, {n, c});
        Tensor exact_got = blank(DType::f32, {n, c});
        rms_norm(*ref, {x.view(), weight.view(), 1e-6F, expected.view(), exact.view()});
        rms_norm(device(), {on[0].view(), on[1].view(), 1e-6F, got.view(), exact_got.view()});
        EXPECT_LT(distance(get(exact_got).view(), exact.view()), tolerance(DType::f32)) << c;
        EXPECT_LT(distance(get(got).view(), expected.view()), tolerance(dtype)) << c;
        layer_norm(*ref, {x.view(), weight.view(), bias.view(), 1e-6F, expected.view()});
        layer_norm(device(), {on[0].view(), on[1].view(), on[2].view(), 1e-6F, got.view()});
        EXPECT_LT(distance(get(got).view(), expected.view()), tolerance(dtype)) << c;
      }
    }
  }
}

TEST(CudaOps, CopiesAndConversions) {
  const auto ref = make_ref_backend();
  for (const int64_t c : {1, 6, 64}) {
    for (const DType from : {DType::f32, DType::bf16}) {
      for (const DType to : {DType::f32, DType::bf16}) {
        const Tensor x = random(from, {9, c}, 3);
        const Tensor x_device = put(x);
        const std::vector<int32_t> rows_from = {8, 0, 3, 3};
        const std::vector<int32_t> rows_to = {1, 4, 0, 2};
        Tensor expected = random(to, {6, c}, 4);
        Tensor got = put(expected);
        copy_rows(*ref, {x.view(), rows_from, rows_to, expected.view()});
        copy_rows(device(), {x_device.view(), rows_from, rows_to, got.view()});
        EXPECT_TRUE(same(get(got).view(), expected.view()));
        Tensor converted(to, {9, c});
        Tensor converted_device = blank(to, {9, c});
        convert(*ref, {x.view(), converted.view()});
        convert(device(), {x_device.view(), converted_device.view()});
        EXPECT_TRUE(same(get(converted_device).view(), converted.view()));
      }
    }
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Tensor table(dtype, {50, c});
      std::mt19937 generator(1);
      for (size_t i = 0; i < table.view().bytes() / 2; ++i) {
        // Any bits but those of NaN and infinity.
        static_cast<uint16_t*>(table.view().data)[i] = static_cast<uint16_t>(generator() & 0xbbffU);
      }
      const std::vector<int32_t> tokens = {49, 0, 7, 7, 31};
      Tensor expected(DType::f32, {5, c});
      Tensor got = blank(DType::f32, {5, c});
      const Tensor on_device = put(table);
      embed(*ref, {std::as_const(table).view(), tokens, expected.view()});
      embed(device(), {on_device.view(), tokens, got.view()});
      EXPECT_TRUE(same(get(got).view(), expected.view())) << dtype_name(dtype) << " " << c;
    }
  }
}

TEST(CudaOps, RopeTable) {
  const auto ref = make_ref_backend();
  const std::vector<int32_t> time = {0, 1, 5000, 262143};
  const std::vector<int32_t> height = {0, 2, 77, 4};
  const std::vector<int32_t> width = {3, 0, 1, 262000};
  Tensor inv_freq(DType::f32, {8});
  for (int i = 0; i < 8; ++i) inv_freq.as<float>()[i] = std::pow(1e6F, -static_cast<float>(i) / 8.0F);
  Tensor expected[2] = {Tensor(DType::f32, {4, 8}), Tensor(DType::f32, {4, 8})};
  Tensor got[2] = {blank(DType::f32, {4, 8}), blank(DType::f32, {4, 8})};
  const Tensor on_device = put(inv_freq);
  rope_table(
      *ref, {{time, height, width}, std::as_const(inv_freq).view(), {2, 3, 3}, expected[0].view(), expected[1].view()});
  rope_table(device(), {{time, height, width}, on_device.view(), {2, 3, 3}, got[0].view(), got[1].view()});
  for (int i = 0; i < 2; ++i) EXPECT_LT(distance(get(got[i]).view(), expected[i].view()), 1e-6);
}

TEST(CudaOps, MixtureOfExperts) {
  const auto ref = make_ref_backend();
  struct Case {
    int64_t n, experts, k;
  };
  std::vector<Case> cases = {{1, 8, 2}, {3, 128, 8}, {40, 33, 5}, {200, 128, 8}, {5, 257, 40}};
  if (kLarge) cases.push_back({8192, 128, 8});
  for (const auto& [n, e, k] : cases) {
    for (const bool normalise : {true, false}) {
      const Tensor logits = random(DType::f32, {n, e}, 9, 5.0F);
      const Tensor logits_device = put(logits);
      Tensor experts(DType::i32, {n, k});
      Tensor weights(DType::f32, {n, k});
      Tensor experts_device = blank(DType::i32, {n, k});
      Tensor weights_device = blank(DType::f32, {n, k});
      moe_route(*ref, {logits.view(), normalise, experts.view(), weights.view()});
      moe_route(device(), {logits_device.view(), normalise, experts_device.view(), weights_device.view()});
      EXPECT_TRUE(same(get(experts_device).view(), experts.view())) << n << " " << e;
      EXPECT_LT(distance(get(weights_device).view(), weights.view()), 1e-6);

      Tensor rows_at(DType::i32, {n * k});
      Tensor offsets(DType::i32, {e + 1});
      Tensor places(DType::i32, {n, k});
      Tensor rows_device = blank(DType::i32, {n * k});
      Tensor offsets_device = blank(DType::i32, {e + 1});
      Tensor places_device = blank(DType::i32, {n, k});
      moe_group(*ref, {experts.view(), rows_at.view(), offsets.view(), places.view()});
      moe_group(device(), {experts_device.view(), rows_device.view(), offsets_device.view(), places_device.view()});
      EXPECT_TRUE(same(get(rows_device).view(), rows_at.view())) << n << " " << e;
      EXPECT_TRUE(same(get(offsets_device).view(), offsets.view())) << n << " " << e;
      EXPECT_TRUE(same(get(places_device).view(), places.view())) << n << " " << e;

      for (const int64_t c : {5, 64}) {
        const Tensor y = random(DType::f32, {n * k, c}, 10);
        const Tensor y_device = put(y);
        const Tensor same_weights = put(weights);
        Tensor out = random(DType::f32, {n, c}, 11);
        Tensor out_device = put(out);
        moe_combine(*ref, {y.view(), places.view(), weights.view(), out.view()});
        moe_combine(device(), {y_device.view(), places_device.view(), same_weights.view(), out_device.view()});
        EXPECT_TRUE(same(get(out_device).view(), out.view())) << c;
        // What the device alone takes: rounded y.
        Tensor narrow(DType::bf16, {n * k, c});
        convert(*ref, {y.view(), narrow.view()});
        Tensor wide(DType::f32, {n * k, c});
        convert(*ref, {narrow.view(), wide.view()});
        const Tensor narrow_device = put(narrow);
        Tensor again = random(DType::f32, {n, c}, 11);
        Tensor again_device = put(again);
        moe_combine(*ref, {wide.view(), places.view(), weights.view(), again.view()});
        moe_combine(device(), {narrow_device.view(), places_device.view(), same_weights.view(), again_device.view()});
        EXPECT_TRUE(same(get(again_device).view(), again.view())) << c;
      }
    }
  }
}

TEST(CudaOps, Pictures) {
  const auto ref = make_ref_backend();
  for (const auto& [grid_rows, cols] : {std::pair{2, 4}, std::pair{6, 10}}) {
    const int64_t c = 12;
    const Tensor table = random(DType::f32, {49, c}, 3);
    const Tensor table_device = put(table);
    Tensor x = random(DType::f32, {grid_rows * cols, c}, 4);
    Tensor x_device = put(x);
    add_position_grid(*ref, {table.view(), grid_rows, cols, x.view()});
    add_position_grid(device(), {table_device.view(), grid_rows, cols, x_device.view()});
    EXPECT_LT(distance(get(x_device).view(), x.view()), 1e-6);
    Tensor merged(DType::f32, {grid_rows * cols / 4, 4 * c});
    Tensor merged_device = blank(DType::f32, merged.shape());
    const Tensor again = put(x);
    merge_patches(*ref, {x.view(), grid_rows, cols, 2, merged.view()});
    merge_patches(device(), {again.view(), grid_rows, cols, 2, merged_device.view()});
    EXPECT_TRUE(same(get(merged_device).view(), merged.view()));
  }
}

// -- attention ---------------------------------------------------------------

struct Heads {
  int64_t heads;
  int groups;
  int64_t dim;
  DType dtype = DType::bf16;
  DType plane = DType::bf16;
};

/// A cache of some sequences, whose pages lie in each other's way, on the host and on the device.
struct Cache {
  Heads shape;
  std::vector<int> lengths;
  std::vector<std::vector<int32_t>> pages;
  Tensor host[2], on_device[2];

  Cache(const Heads& heads, std::vector<int> lengths_) : shape(heads), lengths(std::move(lengths_)) {
    int64_t longest = 0;
    for (const int length : lengths) longest = std::max(longest, pages_for(length));
    pages.resize(lengths.size());
    for (int64_t page = longest - 1; page >= 0; --page) {
      for (size_t s = 0; s < lengths.size(); ++s) {
        pages[s].insert(pages[s].begin(),
                        static_cast<int32_t>(page * static_cast<int64_t>(lengths.size()) + static_cast<int64_t>(s)));
      }
    }
    const auto bytes =
        static_cast<int64_t>(plane(nullptr).page_bytes()) * longest * static_cast<int64_t>(lengths.size());
    for (int i = 0; i < 2; ++i) {
      host[i] = Tensor(DType::u8, {bytes});
      on_device[i] = device().tensor(DType::u8, {bytes});
    }
  }
  KvPlane plane(void* data) const {
    return {static_cast<std::byte*>(data), shape.plane, PlaneLayout::rows, shape.groups, static_cast<int>(shape.dim)};
  }
  int total() const {
    int sum = 0;
    for (const int length : lengths) sum += length;
    return sum;
  }
  /// All tokens of all sequences, one sequence after another.
  std::vector<int32_t> slots() const {
    std::vector<int32_t> result;
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int i = 0; i < lengths[s]; ++i)
        result.push_back(pages[s][static_cast<size_t>(i / kPageTokens)] * kPageTokens + i % kPageTokens);
    }
    return result;
  }
};

/// Fills both caches through attention_input; returns the queries [n, h, d] on the host.
Tensor fill(Backend& ref, Cache& cache) {
  const auto& [heads, groups, d, dtype, plane_dtype] = cache.shape;
  const int64_t n = cache.total();
  const Tensor qkv = random(DType::f32, {n, (heads + 2 * groups) * d}, 21);
  const Tensor q_norm = random(DType::f32, {d}, 22, 2.0F);
  const Tensor k_norm = random(DType::f32, {d}, 23, 2.0F);
  Tensor cos = random(DType::f32, {n, d / 2}, 24);
  Tensor sin = random(DType::f32, {n, d / 2}, 25);
  const std::vector<int32_t> slots = cache.slots();
  Tensor q(dtype, {n, heads, d});
  Tensor q_device = blank(dtype, {n, heads, d});
  attention_input(ref, {.qkv = qkv.view(),
                        .q_norm = q_norm.view(),
                        .k_norm = k_norm.view(),
                        .eps = 1e-6F,
                        .cos = cos.view(),
                        .sin = sin.view(),
                        .slots = slots,
                        .q = q.view(),
                        .k = cache.plane(cache.host[0].view().data),
                        .v = cache.plane(cache.host[1].view().data)});
  const Tensor on[5] = {put(qkv), put(q_norm), put(k_norm), put(cos), put(sin)};
  attention_input(device(), {.qkv = on[0].view(),
                             .q_norm = on[1].view(),
                             .k_norm = on[2].view(),
                             .eps = 1e-6F,
                             .cos = on[3].view(),
                             .sin = on[4].view(),
                             .slots = slots,
                             .q = q_device.view(),
                             .k = cache.plane(cache.on_device[0].view().data),
                             .v = cache.plane(cache.on_device[1].view().data)});
  EXPECT_LT(distance(get(q_device).view(), q.view()), tolerance(dtype));
  for (int i = 0; i < 2; ++i) {
    const Tensor got = get(cache.on_device[i]);
    const auto differs = [&] {
      int64_t count = 0;
      for (int64_t b = 0; b < got.shape()[0]; ++b) count += got.as<uint8_t>()[b] != cache.host[i].as<uint8_t>()[b];
      return count;
    };
    // Sums in another order turn few of the last bits.
    EXPECT_LE(static_cast<double>(differs()),
              0.05 * static_cast<double>(got.shape()[0]) * (plane_dtype == DType::f32 ? 10 : 1));
    // From here on both have the same keys and values.
    device().write(cache.on_device[i].view(), cache.host[i].view().data);
  }
  return q;
}

struct Piece {
  int sequence, begin, rows;
};

/// The device's result for some rows of the sequences; q and chosen have a row for every token of the cache.
Tensor attend(Cache& cache, const Tensor& q, const std::vector<Piece>& pieces, const Tensor* chosen = nullptr) {
  const auto& [heads, groups, d, dtype, plane_dtype] = cache.shape;
  std::vector<SequenceRows> sequences;
  int64_t n = 0;
  for (const Piece& piece : pieces) {
    const auto count = static_cast<size_t>(pages_for(piece.begin + piece.rows));
    sequences.push_back({static_cast<int32_t>(n), piece.rows, piece.begin,
                         std::span<const int32_t>(cache.pages[static_cast<size_t>(piece.sequence)]).first(count)});
    n += piece.rows;
  }
  Tensor queries(dtype, {n, heads, d});
  Tensor choice;
  if (chosen != nullptr) choice = Tensor(DType::i32, {n, chosen->shape()[1]});
  int64_t to = 0;
  for (const Piece& piece : pieces) {
    int64_t from = piece.begin;
    for (int s = 0; s < piece.sequence; ++s) from += cache.lengths[static_cast<size_t>(s)];
    const ConstView part = rows(std::as_const(q).view(), from, from + piece.rows);
    std::memcpy(rows(queries.view(), to, to + piece.rows).data, part.data, part.bytes());
    if (chosen != nullptr) {
      const ConstView of = rows(chosen->view(), from, from + piece.rows);
      std::memcpy(rows(choice.view(), to, to + piece.rows).data, of.data, of.bytes());
    }
    to += piece.rows;
  }
  const Tensor queries_device = put(queries);
  const Tensor choice_device = chosen != nullptr ? put(choice) : Tensor();
  Tensor out = blank(dtype, {n, heads * d});
  paged_attention(device(), {.q = queries_device.view(),
                             .k = cache.plane(cache.on_device[0].view().data),
                             .v = cache.plane(cache.on_device[1].view().data),
                             .sequences = sequences,
                             .scale = 1.0F / std::sqrt(static_cast<float>(d)),
                             .chosen = chosen != nullptr ? choice_device.view() : ConstView{},
                             .out = out.view()});
  return get(out);
}

Tensor attend_ref(Backend& ref, Cache& cache, const Tensor& q, const Tensor* chosen = nullptr) {
  std::vector<SequenceRows> sequences;
  int32_t n = 0;
  for (size_t s = 0; s < cache.lengths.size(); ++s) {
    sequences.push_back({n, cache.lengths[s], 0, cache.pages[s]});
    n += cache.lengths[s];
  }
  Tensor out(cache.shape.dtype, {n, cache.shape.heads * cache.shape.dim});
  paged_attention(ref, {.q = q.view(),
                        .k = cache.plane(cache.host[0].view().data),
                        .v = cache.plane(cache.host[1].view().data),
                        .sequences = sequences,
                        .scale = 1.0F / std::sqrt(static_cast<float>(cache.shape.dim)),
                        .chosen = chosen != nullptr ? chosen->view() : ConstView{},
                        .out = out.view()});
  return out;
}

std::vector<Heads> head_shapes() {
  std::vector<Heads> shapes = {{8, 1, 64},
                               {4, 4, 64},
                               {6, 2, 128},
                               {4, 2, 16},
                               {2, 1, 64, DType::bf16, DType::i8},
                               {2, 1, 64, DType::bf16, DType::f8_e4m3},
                               {3, 1, 20, DType::f32, DType::f32}};
  if (kLarge) shapes.insert(shapes.end(), {{32, 4, 128}, {40, 2, 128}, {32, 8, 128}});
  return shapes;
}

TEST(CudaOps, PagedAttention) {
  const auto ref = make_ref_backend();
  for (const Heads& heads : head_shapes()) {
    Cache cache(heads, {1, 70, kLarge ? 700 : 130});
    const Tensor q = fill(*ref, cache);
    const Tensor expected = attend_ref(*ref, cache, q);
    const Tensor got = attend(cache, q, {{0, 0, 1}, {1, 0, 70}, {2, 0, cache.lengths[2]}});
    EXPECT_LT(distance(got.view(), expected.view()), tolerance(heads.dtype)) << heads.heads << " x " << heads.dim;
  }
}

TEST(CudaOps, ARowOfAttentionHasTheSameBitsInAnyCompany) {
  const auto ref = make_ref_backend();
  for (const Heads& heads :
       kLarge ? std::vector<Heads>{{32, 4, 128}, {8, 2, 64}, {2, 1, 32}} : std::vector<Heads>{{4, 2, 64}}) {
    const int length = kLarge ? 2600 : 1040;  // over several parts
    Cache cache(heads, {length, 90});
    const Tensor q = fill(*ref, cache);
    const int tail = 40;
    const Tensor whole = attend(cache, q, {{0, length - tail, tail}});
    const auto expect_row = [&](const Tensor& got, int64_t row, int index) {
      const int64_t expected = index - (length - tail);
      EXPECT_TRUE(same(rows(got.view(), row, row + 1), rows(whole.view(), expected, expected + 1))) << index;
    };
    for (int index = length - tail; index < length; index += 3) expect_row(attend(cache, q, {{0, index, 1}}), 0, index);
    // Decoding beside a prompt, and in chunks.
    const Tensor beside = attend(cache, q, {{1, 0, 90}, {0, length - 2, 1}});
    expect_row(beside, 90, length - 2);
    const Tensor chunk = attend(cache, q, {{0, length - tail + 5, 20}});
    for (int i = 0; i < 20; ++i) expect_row(chunk, i, length - tail + 5 + i);
    // A choice of everything is no choice.
    Tensor all(DType::i32, {cache.total(), length});
    for (int64_t t = 0; t < cache.total(); ++t) {
      const int64_t index = t < length ? t : t - length;
      for (int64_t i = 0; i < length; ++i)
        all.as<int32_t>()[t * length + i] = i <= index ? static_cast<int32_t>(i) : -1;
    }
    const Tensor chosen = attend(cache, q, {{0, length - 3, 3}, {1, 80, 1}}, &all);
    for (int i = 0; i < 3; ++i) expect_row(chosen, i, length - 3 + i);
  }
}

TEST(CudaOps, ChosenKeys) {
  const auto ref = make_ref_backend();
  for (const Heads& heads : kLarge ? head_shapes() : std::vector<Heads>{{8, 1, 64}, {2, 1, 16}}) {
    Cache cache(heads, {150, 40});
    const Tensor q = fill(*ref, cache);
    const int64_t most = 100;
    Tensor chosen(DType::i32, {cache.total(), most});
    std::mt19937 generator(4);
    for (int64_t t = 0; t < cache.total(); ++t) {
      const int64_t index = t < 150 ? t : t - 150;
      int64_t count = 0;
      for (int64_t i = 0; i <= index && count < most; ++i) {
        if (i == index || generator() % 3 != 0) chosen.as<int32_t>()[t * most + count++] = static_cast<int32_t>(i);
      }
      for (; count < most; ++count) chosen.as<int32_t>()[t * most + count] = -1;
    }
    const Tensor expected = attend_ref(*ref, cache, q, &chosen);
    const Tensor got = attend(cache, q, {{0, 0, 150}, {1, 0, 40}}, &chosen);
    EXPECT_LT(distance(got.view(), expected.view()), tolerance(heads.dtype)) << heads.heads << " x " << heads.dim;
    const Tensor one = attend(cache, q, {{0, 149, 1}}, &chosen);
    EXPECT_TRUE(same(one.view(), rows(got.view(), 149, 150)));
  }
}

TEST(CudaOps, VisionAttention) {
  const auto ref = make_ref_backend();
  for (const int64_t d : kLarge ? std::vector<int64_t>{16, 64, 72, 78, 96, 100} : std::vector<int64_t>{72, 16, 100}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      const int heads = 2;
      const std::vector<int32_t> segments = {0, 65, 66, 66, kLarge ? 1000 : 150};
      const int64_t p = segments.back();
      const Tensor qkv = random(dtype, {p, 3, heads, d}, 31);
      const Tensor cos = random(DType::f32, {p, d / 2}, 32);
      const Tensor sin = random(DType::f32, {p, d / 2}, 33);
      const Tensor on[3] = {put(qkv), put(cos), put(sin)};
      const float scale = 1.0F / std::sqrt(static_cast<float>(d));
      Tensor expected(dtype, {p, heads * d});
      Tensor got = blank(dtype, expected.shape());
      vision_attention(*ref, {qkv.view(), cos.view(), sin.view(), segments, heads, scale, expected.view()});
      vision_attention(device(), {on[0].view(), on[1].view(), on[2].view(), segments, heads, scale, got.view()});
      EXPECT_LT(distance(get(got).view(), expected.view()), tolerance(dtype)) << d << " " << dtype_name(dtype);
      // One segment alone.
      const Tensor part[3] = {put(rows(qkv.view(), 66, p)), put(rows(cos.view(), 66, p)), put(rows(sin.view(), 66, p))};
      const std::vector<int32_t> one = {0, static_cast<int32_t>(p) - 66};
      Tensor alone = blank(dtype, {p - 66, heads * d});
      vision_attention(device(), {part[0].view(), part[1].view(), part[2].view(), one, heads, scale, alone.view()});
      const Tensor host = get(got);
      EXPECT_TRUE(same(get(alone).view(), rows(host.view(), 66, p)));
    }
  }
}

// -- the indexer -------------------------------------------------------------

KvPlane index_plane(const Tensor& keys, DType dtype, PlaneLayout layout, int64_t dim) {
  return {static_cast<std::byte*>(const_cast<void*>(keys.view().data)), dtype, layout, 1, static_cast<int>(dim)};
}

TEST(CudaOps, Indexer) {
  const auto ref = make_ref_backend();
  struct Case {
    int64_t heads, dim;
    DType dtype;
  };
  for (const auto& [heads, dim, dtype] : {Case{16, 64, DType::bf16}, Case{4, 128, DType::bf16},
                                          Case{3, 16, DType::bf16}, Case{16, 64, DType::f32}, Case{2, 8, DType::f32}}) {
    const int64_t n = kLarge ? 900 : 150;
    const Tensor q_gate = random(DType::f32, {n, heads * dim + heads}, 41);
    const Tensor k_in = random(DType::f32, {n, dim}, 42);
    const Tensor norms[3] = {random(DType::f32, {dim}, 43), random(DType::f32, {dim}, 44),
                             random(DType::f32, {dim}, 45)};
    const Tensor cos = random(DType::f32, {n, dim / 2}, 46);
    const Tensor sin = random(DType::f32, {n, dim / 2}, 47);
    std::vector<int32_t> slots(static_cast<size_t>(n));
    for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>(i);
    std::vector<int32_t> pages(static_cast<size_t>(pages_for(n)));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    const int64_t keys_elements = static_cast<int64_t>(pages.size()) * kPageTokens * dim;
    Tensor keys(dtype, {keys_elements});
    Tensor keys_device = put(keys);
    Tensor q(dtype, {n, heads, dim});
    Tensor gate(DType::f32, {n, heads});
    Tensor q_device = blank(dtype, q.shape());
    Tensor gate_device = blank(DType::f32, gate.shape());
    indexer_input(*ref,
                  {q_gate.view(), k_in.view(), norms[0].view(), norms[1].view(), norms[2].view(), 1e-6F, cos.view(),
                   sin.view(), slots, q.view(), gate.view(), index_plane(keys, dtype, PlaneLayout::keys, dim)});
    const Tensor on[7] = {put(q_gate), put(k_in), put(norms[0]), put(norms[1]), put(norms[2]), put(cos), put(sin)};
    indexer_input(device(), {on[0].view(), on[1].view(), on[2].view(), on[3].view(), on[4].view(), 1e-6F, on[5].view(),
                             on[6].view(), slots, q_device.view(), gate_device.view(),
                             index_plane(keys_device, dtype, PlaneLayout::rows, dim)});
    // A sum in another order can turn a rounding to 4 bits.
    EXPECT_LT(distance(get(q_device).view(), q.view()), dtype == DType::bf16 ? 5e-3 : 1e-5) << heads << " " << dim;
    EXPECT_LT(distance(get(gate_device).view(), gate.view()), 1e-6);

    const int64_t topk = 40;
    const std::vector<SequenceRows> sequences = {{0, static_cast<int32_t>(n), 0, pages}};
    Tensor chosen = blank(DType::i32, {n, topk});
    Tensor scores = blank(DType::f32, {n, static_cast<int64_t>(pages.size()) * kPageTokens});
    const KvPlane plane = index_plane(keys_device, dtype, PlaneLayout::rows, dim);
    sparse_select(device(), {q_device.view(), gate_device.view(), plane, sequences, chosen.view(), scores.view()});
    const Tensor chosen_host = get(chosen);
    const Tensor scores_host = get(scores);
    const Tensor q_host = get(q_device);
    const Tensor keys_host = get(keys_device);
    const Tensor gate_host = get(gate_device);
    for (int64_t t = 0; t < n; t += 7) {
      const float* row = scores_host.as<float>() + t * scores_host.shape()[1];
      std::vector<int32_t> order;
      for (int64_t s = 0; s <= t; ++s) {
        double sum = 0;
        for (int64_t h = 0; h < heads; ++h) {
          double dot = 0;
          for (int64_t i = 0; i < dim; ++i)
            dot += at(q_host.view(), (t * heads + h) * dim + i) * at(keys_host.view(), s * dim + i);
          sum += gate_host.as<float>()[t * heads + h] * std::max(0.0, dot);
        }
        EXPECT_NEAR(row[s], sum, 2e-4) << t << " " << s;
        order.push_back(static_cast<int32_t>(s));
      }
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      order.resize(std::min(order.size(), static_cast<size_t>(topk)));
      std::sort(order.begin(), order.end());
      order.resize(static_cast<size_t>(topk), -1);
      EXPECT_EQ(std::memcmp(order.data(), chosen_host.as<int32_t>() + t * topk, order.size() * 4), 0) << t;
    }
    // A token alone chooses as it does in a prompt.
    for (const int64_t t : {int64_t{60}, n - 1}) {
      const Tensor one_q = put(rows(q_host.view(), t, t + 1));
      const Tensor one_gate = put(rows(gate_host.view(), t, t + 1));
      const std::vector<SequenceRows> one = {{0, 1, static_cast<int32_t>(t), pages}};
      Tensor alone = blank(DType::i32, {1, topk});
      sparse_select(device(), {one_q.view(), one_gate.view(), plane, one, alone.view(), {}});
      EXPECT_TRUE(same(get(alone).view(), rows(chosen_host.view(), t, t + 1))) << t;
    }
  }
}

}  // namespace
}  // namespace keye::ops
