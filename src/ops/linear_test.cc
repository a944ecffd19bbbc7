#include "ops/linear.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>

#include "ops/backend.h"
#include "ops/cpu/isa.h"

namespace keye::ops {
namespace {

/// Memory that ends where an unreadable page begins, so that one byte too far is a fault.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : page_(static_cast<size_t>(::sysconf(_SC_PAGESIZE))), bytes_(bytes) {
    pages_ = (bytes + page_ - 1) / page_ * page_;
    void* address = ::mmap(nullptr, pages_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEYE_CHECK(address != MAP_FAILED);
    start_ = static_cast<std::byte*>(address);
    KEYE_CHECK(::mprotect(start_ + pages_, page_, PROT_NONE) == 0);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { ::munmap(start_, pages_ + page_); }

  void* data() const { return start_ + pages_ - bytes_; }

 private:
  size_t page_;
  size_t bytes_;
  size_t pages_;
  std::byte* start_;
};

/// A tensor in guarded memory, with random values in [-1, 1).
class Array {
 public:
  Array(DType dtype, Shape shape, uint32_t seed = 1)
      : memory_(static_cast<size_t>(shape.elements()) * dtype_bytes(dtype)), view_{memory_.data(), dtype, shape} {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < size(); ++i) set(i, static_cast<float>(random()) * 0x1p-31F - 1.0F);
  }

  View view() const { return view_; }
  int64_t size() const { return view_.elements(); }
  float at(int64_t i) const {
    return view_.dtype == DType::bf16 ? static_cast<float>(view_.as<BFloat16>()[i]) : view_.as<float>()[i];
  }
  void set(int64_t i, float value) {
    if (view_.dtype == DType::bf16) {
      view_.as<BFloat16>()[i] = BFloat16(value);
    } else {
      view_.as<float>()[i] = value;
    }
  }

 private:
  Guarded memory_;
  View view_;
};

ConstView view_of(const std::vector<int32_t>& numbers) {
  return {numbers.data(), DType::i32, {static_cast<int64_t>(numbers.size())}};
}

std::unique_ptr<Backend> cpu(const std::string& isa, int threads) {
  Result<std::unique_ptr<Backend>> backend = make_cpu_backend({threads, isa});
  KEYE_CHECK(backend.has_value(), "{}", backend.error().to_string());
  return std::move(*backend);
}

StridedMatrix rows_of(const Array& array, int64_t begin, int64_t end) {
  const ConstView view = rows(ConstView(array.view()), begin, end);
  return {view.data, view.dtype, end - begin, view.shape[1], view.shape[1], 1};
}

PackedMatrix packed(Backend& backend, const Array& w, bool gated, DType dtype) {
  const int64_t outputs = w.view().shape[0];
  const StridedMatrix blocks[] = {rows_of(w, 0, gated ? outputs / 2 : outputs), rows_of(w, outputs / 2, outputs)};
  return pack(backend, {std::span(blocks, gated ? 2 : 1), gated, dtype});
}

std::string bytes_of(const View& view) { return std::string(static_cast<const char*>(view.data), view.bytes()); }

/// Every instruction set that this machine runs.
class LinearTest : public testing::TestWithParam<std::string> {
 protected:
  std::string isa() const { return GetParam(); }
};

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const char* name : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    if (isa_from_name(name).has_value()) names.emplace_back(name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::ValuesIn(isas()), [](const auto& one) { return one.param; });

struct Case {
  int64_t n;
  int64_t inputs;
  int64_t outputs;
  DType dtype = DType::bf16;
  Activation activation = Activation::none;
  bool bias = false;
  bool accumulate = false;
  DType out = DType::f32;

  std::string to_string() const {
    return fmt::format("n {} inputs {} outputs {} {} activation {} bias {} accumulate {} out {}", n, inputs, outputs,
                       dtype_name(dtype), static_cast<int>(activation), bias, accumulate, dtype_name(out));
  }
};

/// Runs the case on the backend and on the reference, and compares.
void check_case(Backend& backend, const Case& c) {
  SCOPED_TRACE(c.to_string());
  const auto reference = make_ref_backend();
  const bool gated = c.activation == Activation::silu_mul;
  const int64_t outputs = gated ? c.outputs * 2 : c.outputs;
  const auto seed = static_cast<uint32_t>(c.n * 7919 + c.inputs * 131 + c.outputs);
  const Array x(c.dtype, {c.n, c.inputs}, seed);
  const Array w(c.dtype, {outputs, c.inputs}, seed + 1);
  const Array bias(DType::f32, {outputs}, seed + 2);
  const Array expected(c.out, {c.n, c.outputs}, seed + 3);
  const Array actual(c.out, {c.n, c.outputs}, seed + 3);
  const ConstView no_bias;
  const auto run = [&](Backend& on, const Array& out) {
    const PackedMatrix matrix = packed(on, w, gated, c.dtype);
    linear(on, {x.view(), matrix, c.bias ? ConstView(bias.view()) : no_bias, c.activation, c.accumulate, out.view()});
  };
  run(*reference, expected);
  run(backend, actual);
  for (int64_t i = 0; i < expected.size(); ++i) {
    float tolerance = 2e-7F * (50.0F + static_cast<float>(c.inputs)) * (1.0F + std::abs(expected.at(i)));
    if (c.out == DType::bf16) tolerance += std::abs(expected.at(i)) / 128;
    ASSERT_NEAR(actual.at(i), expected.at(i), tolerance) << "at " << i;
  }
}

TEST_P(LinearTest, AgreesWithTheReferenceAtEverySize) {
  const auto one = cpu(isa(), 1);
  const auto three = cpu(isa(), 3);
  std::mt19937 random(5);
  const auto below = [&](uint32_t end) { return static_cast<int64_t>(random() % end); };
  for (int64_t n = 1; n <= 40; ++n) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      check_case(*one, {n, 1 + below(70), 1 + below(100), dtype});
      if (n % 8 == 0) check_case(*three, {n, 1 + below(70), 1 + below(100), dtype});
    }
  }
  for (int64_t inputs = 1; inputs <= 70; ++inputs) check_case(*one, {1 + below(20), inputs, 1 + below(100)});
  for (int64_t outputs = 1; outputs <= 100; ++outputs) check_case(*one, {1 + below(20), 1 + below(70), outputs});
}

TEST_P(LinearTest, AgreesWithTheReferenceInEveryEpilogue) {
  const auto backend = cpu(isa(), 2);
  for (const Activation activation :
       {Activation::none, Activation::silu_mul, Activation::gelu_tanh, Activation::gelu_erf}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const bool bias : {false, true}) {
        for (const int64_t outputs : {1, 7, 16, 31, 33, 96}) {
          check_case(*backend, {17, 35, outputs, dtype, activation, bias, false, DType::f32});
          check_case(*backend, {17, 35, outputs, dtype, activation, bias, true, DType::f32});
          check_case(*backend, {3, 36, outputs, dtype, activation, bias, false, DType::bf16});
        }
      }
    }
  }
}

TEST_P(LinearTest, AgreesWithTheReferenceOnLargeMatrices) {
  const auto backend = cpu(isa(), 2);
  check_case(*backend, {150, 5001, 70, DType::bf16, Activation::silu_mul, true, true});  // several passes
  check_case(*backend, {75, 2600, 161, DType::f32, Activation::none, false, true});
  check_case(*backend, {1300, 70, 65, DType::bf16, Activation::gelu_tanh, true, false, DType::bf16});
}

/// Rows of one product, each computed in every other company: bit for bit the same.
TEST_P(LinearTest, RowDoesNotDependOnItsCompany) {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{4301, 75}, {134, 1000}, {33, 64}}) {
      SCOPED_TRACE(fmt::format("{} inputs {} outputs {}", dtype_name(dtype), inputs, outputs));
      const int64_t n = 157;
      const Array x(dtype, {n, inputs}, 3);
      const Array w(dtype, {2 * outputs, inputs}, 4);
      const Array out(DType::f32, {n, outputs});
      const auto alone = cpu(isa(), 1);
      const PackedMatrix matrix = packed(*alone, w, true, dtype);
      linear(*alone, {x.view(), matrix, {}, Activation::silu_mul, false, out.view()});
      for (const int threads : {1, 2, 3}) {
        const auto backend = cpu(isa(), threads);
        for (const int64_t step :
             {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{8}, int64_t{9}, int64_t{15}, int64_t{64}, n}) {
          for (int64_t begin = 0; begin + step <= n; begin += std::max<int64_t>(step, threads == 1 ? 31 : 61)) {
            const Array part(DType::f32, {step, outputs}, 9);
            linear(*backend,
                   {rows(x.view(), begin, begin + step), matrix, {}, Activation::silu_mul, false, part.view()});
            ASSERT_EQ(bytes_of(part.view()), bytes_of(rows(out.view(), begin, begin + step)))
                << step << " at " << begin;
          }
        }
      }
    }
  }
}

TEST_P(LinearTest, GroupedRowEqualsItsLinearProduct) {
  const int64_t inputs = 70;
  const int64_t outputs = 43;
  const int64_t n = 64;
  const std::vector<int32_t> sizes = {0, 1, 3, 0, 0, 8, 9, 29, 64, 1, 0};
  const auto alone = cpu(isa(), 1);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const bool gated : {false, true}) {
      const Activation activation = gated ? Activation::silu_mul : Activation::none;
      for (const int threads : {1, 2, 3}) {
        const auto backend = cpu(isa(), threads);
        std::vector<PackedMatrix> w;
        std::vector<int32_t> rows_at;
        std::vector<int32_t> offsets = {0};
        for (const int32_t size : sizes) {
          const Array matrix(dtype, {gated ? 2 * outputs : outputs, inputs}, static_cast<uint32_t>(w.size()));
          w.push_back(packed(*backend, matrix, gated, dtype));
          for (int32_t i = 0; i < size; ++i) rows_at.push_back((i * 37 + size) % static_cast<int32_t>(n));
          offsets.push_back(static_cast<int32_t>(rows_at.size()));
        }
        const Array x(dtype, {n, inputs}, 11);
        const Array out(DType::f32, {static_cast<int64_t>(rows_at.size()), outputs});
        grouped_linear(*backend, {x.view(), w, view_of(rows_at), view_of(offsets), activation, out.view()});
        for (size_t e = 0; e < w.size(); ++e) {
          for (int64_t p = offsets[e]; p < offsets[e + 1]; ++p) {
            const int64_t t = rows_at[static_cast<size_t>(p)];
            const Array row(DType::f32, {1, outputs});
            linear(*alone, {rows(x.view(), t, t + 1), w[e], {}, activation, false, row.view()});
            ASSERT_EQ(bytes_of(row.view()), bytes_of(rows(out.view(), p, p + 1))) << "group " << e << " place " << p;
          }
        }
      }
    }
  }
}

/// A matrix of random codes (no NaN) and random factors, and what it stands for.
struct CodedMatrix {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  int64_t rows, cols, block_rows, block_cols;

  CodedMatrix(int64_t rows_, int64_t cols_, int64_t block_rows_, int64_t block_cols_, uint32_t seed)
      : rows(rows_), cols(cols_), block_rows(block_rows_), block_cols(block_cols_) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const auto code = static_cast<uint8_t>(random());
      codes.push_back((code & 0x7f) == 0x7f ? 0 : code);
    }
    const int64_t blocks = ((rows + block_rows - 1) / block_rows) * ((cols + block_cols - 1) / block_cols);
    for (int64_t i = 0; i < blocks; ++i) scales.push_back(static_cast<float>(1 + random() % 1000) * 1e-5F);
  }
  StridedMatrix matrix() const {
    const int64_t scales_of_row = (cols + block_cols - 1) / block_cols;
    return {codes.data(), DType::f8_e4m3, rows, cols, cols, 1, scales.data(), block_rows, block_cols, scales_of_row};
  }
  double value(int64_t row, int64_t col) const {
    return double{f8_to_float(codes[static_cast<size_t>(row * cols + col)])} * matrix().scale(row, col);
  }
};

TEST_P(LinearTest, CodesCountTimesTheFactorsOfTheirBlocks) {
  struct Shape2 {
    int64_t n, inputs, first, second, block_rows, block_cols;
  };
  for (const Shape2& c :
       {Shape2{1, 1, 1, 1, 128, 128}, Shape2{3, 127, 16, 7, 16, 2}, Shape2{5, 160, 96, 80, 128, 128},
        Shape2{8, 128, 128, 33, 128, 128}, Shape2{9, 129, 32, 40, 128, 128}, Shape2{40, 320, 144, 144, 128, 128},
        Shape2{600, 260, 48, 20, 48, 64}, Shape2{70, 4300, 64, 5, 32, 128}}) {
    const CodedMatrix first(c.first, c.inputs, c.block_rows, c.block_cols, 1);
    const CodedMatrix second(c.second, c.inputs, c.block_rows, c.block_cols, 2);
    const StridedMatrix blocks[] = {first.matrix(), second.matrix()};
    const bool gated = c.first == c.second;
    const int64_t columns = gated ? c.first : c.first + c.second;
    for (const DType dtype : {DType::bf16, DType::f32}) {
      SCOPED_TRACE(fmt::format("n {} inputs {} outputs {} {}", c.n, c.inputs, columns, dtype_name(dtype)));
      const Array x(dtype, {c.n, c.inputs}, 3);
      const auto alone = cpu(isa(), 1);
      const PackedMatrix w = pack(*alone, {blocks, gated, DType::f8_e4m3});
      EXPECT_LT(w.data.size(), static_cast<size_t>(w.panels()) * (c.inputs + 1) * kPanel + 64);  // a byte an element
      const Activation activation = gated ? Activation::silu_mul : Activation::none;
      const Array out(DType::f32, {c.n, columns});
      linear(*alone, {x.view(), w, {}, activation, false, out.view()});
      for (int64_t t = 0; t < c.n; t += std::max<int64_t>(1, c.n / 3)) {
        for (int64_t o = 0; o < columns; ++o) {
          const auto dot = [&](const CodedMatrix& m, int64_t row) {
            std::pair<double, double> sum{0, 0};  // and of the magnitudes
            for (int64_t i = 0; i < c.inputs; ++i) {
              const double product = x.at(t * c.inputs + i) * m.value(row, i);
              sum.first += product;
              sum.second += std::abs(product);
            }
            return sum;
          };
          auto [expected, magnitude] = o < c.first ? dot(first, o) : dot(second, o - c.first);
          double tolerance = 1e-5 * magnitude;
          if (gated) {
            const auto [up, up_magnitude] = dot(second, o);
            tolerance = 3e-5 * (1 + magnitude) * (1 + up_magnitude);
            expected = expected / (1 + std::exp(-expected)) * up;
          }
          ASSERT_NEAR(out.at(t * columns + o), expected, tolerance) << t << " " << o;
        }
      }
      // The same bits packed by the reference, on more threads, in other company, and in a group.
      const PackedMatrix packed_plainly = pack(*make_ref_backend(), {blocks, gated, DType::f8_e4m3});
      ASSERT_EQ(packed_plainly.data.size(), w.data.size());
      EXPECT_EQ(std::memcmp(packed_plainly.data.data(), w.data.data(), w.data.size()), 0);
      EXPECT_EQ(std::memcmp(packed_plainly.scales.data(), w.scales.data(), w.scales.size()), 0);
      const auto three = cpu(isa(), 3);
      const Array again(DType::f32, {c.n, columns}, 9);
      linear(*three, {x.view(), w, {}, activation, false, again.view()});
      EXPECT_EQ(bytes_of(again.view()), bytes_of(out.view()));
      for (const int64_t step : {1, 2, 9}) {
        if (step > c.n) continue;
        const Array part(DType::f32, {step, columns}, 9);
        linear(*three, {rows(x.view(), c.n - step, c.n), w, {}, activation, false, part.view()});
        EXPECT_EQ(bytes_of(part.view()), bytes_of(rows(out.view(), c.n - step, c.n))) << step;
      }
      const std::vector<int32_t> offsets = {0, static_cast<int32_t>(c.n)};
      grouped_linear(*three, {x.view(), std::span(&w, 1), {}, view_of(offsets), activation, again.view()});
      EXPECT_EQ(bytes_of(again.view()), bytes_of(out.view()));
    }
  }
}

/// Each code alone, against the table of its meaning.
TEST_P(LinearTest, EveryCodeIsExact) {
  CodedMatrix codes(256, 2, 256, 2, 1);
  for (int64_t i = 0; i < 256; ++i) {
    const bool is_nan = (i & 0x7f) == 0x7f;
    codes.codes[static_cast<size_t>(2 * i)] = is_nan ? 0 : static_cast<uint8_t>(i);
    codes.codes[static_cast<size_t>(2 * i + 1)] = 0;
  }
  codes.scales = {1.0F};
  const StridedMatrix block = codes.matrix();
  const auto backend = cpu(isa(), 1);
  const PackedMatrix w = pack(*backend, {std::span(&block, 1), false, DType::f8_e4m3});
  for (const DType dtype : {DType::bf16, DType::f32}) {
    Array x(dtype, {1, 2});
    x.set(0, 1);
    x.set(1, 0);
    const Array out(DType::f32, {1, 256});
    linear(*backend, {x.view(), w, {}, Activation::none, false, out.view()});
    for (int64_t i = 0; i < 256; ++i) EXPECT_EQ(out.at(i), f8_to_float(codes.codes[static_cast<size_t>(2 * i)])) << i;
  }
}

TEST_P(LinearTest, RoundsToNearestEven) {
  const auto backend = cpu(isa(), 1);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const Array x(dtype, {19, 50});
    const Array w(dtype, {45, 50}, 2);
    const Array wide(DType::f32, {19, 45});
    const Array narrow(DType::bf16, {19, 45});
    const PackedMatrix matrix = packed(*backend, w, false, dtype);
    linear(*backend, {x.view(), matrix, {}, Activation::none, false, wide.view()});
    linear(*backend, {x.view(), matrix, {}, Activation::none, false, narrow.view()});
    for (int64_t i = 0; i < wide.size(); ++i) ASSERT_EQ(narrow.at(i), static_cast<float>(BFloat16(wide.at(i))));
  }
}

TEST_P(LinearTest, NotANumberStaysInItsRow) {
  for (const float bad : {NAN, INFINITY}) {
    for (const int64_t n : {5, 30}) {
      Array x(DType::bf16, {n, 33});
      const Array w(DType::bf16, {41, 33}, 2);
      const auto backend = cpu(isa(), 2);
      const PackedMatrix matrix = packed(*backend, w, false, DType::bf16);
      const Array clean(DType::bf16, {n, 41});
      const Array dirty(DType::bf16, {n, 41}, 3);
      linear(*backend, {x.view(), matrix, {}, Activation::gelu_erf, false, clean.view()});
      for (int64_t i = 0; i < 33; ++i) x.set(2 * 33 + i, bad);
      linear(*backend, {x.view(), matrix, {}, Activation::gelu_erf, false, dirty.view()});
      for (int64_t i = 0; i < clean.size(); ++i) {
        if (i / 41 != 2) {
          ASSERT_EQ(dirty.at(i), clean.at(i));
        } else {
          ASSERT_FALSE(std::isfinite(dirty.at(i)) && dirty.at(i) != 0);
        }
      }
    }
  }
}

/// With one input and weights of one the product is x itself: the activation alone, against f64.
TEST_P(LinearTest, ActivationsAreAccurate) {
  const auto backend = cpu(isa(), 1);
  const int64_t n = 60001;
  Array x(DType::f32, {n, 1});
  for (int64_t i = 0; i < n; ++i) x.set(i, (static_cast<float>(i) - 0.5F * static_cast<float>(n)) * 0.001F);
  Array one(DType::f32, {2, 1});
  one.set(0, 1);
  one.set(1, 1);
  const auto check = [&](Activation activation, auto&& exact) {
    const bool gated = activation == Activation::silu_mul;
    const Array out(DType::f32, {n, gated ? 1 : 2});
    linear(*backend, {x.view(), packed(*backend, one, gated, DType::f32), {}, activation, false, out.view()});
    for (int64_t i = 0; i < n; ++i) {
      const double z = x.at(i);
      const double y = exact(z);
      // Units in the last place of the result and, where that is all but the cancelled difference of two, of those.
      const double unit =
          std::ldexp(std::max(std::abs(y), (isa() == "scalar" ? 1.0 : 0.1) * std::min(8.0, std::abs(z))), -23);
      ASSERT_NEAR(out.at(gated ? i : 2 * i), y, 3 * unit + 1e-37)
          << "activation " << static_cast<int>(activation) << " of " << z;
    }
  };
  check(Activation::silu_mul, [](double z) { return z / (1 + std::exp(-z)) * z; });
  check(Activation::gelu_tanh,
        [](double z) { return z / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))); });
  check(Activation::gelu_erf, [](double z) { return 0.5 * z * std::erfc(-z / std::sqrt(2.0)); });
}

TEST_P(LinearTest, ExtremesOfActivationsAreTheirLimits) {
  const auto backend = cpu(isa(), 1);
  const std::vector<float> values = {-3e38F, -1e20F, -200.0F, -0.0F, 0.0F, 200.0F, 1e20F, 3e38F};
  Array x(DType::f32, {static_cast<int64_t>(values.size()), 1});
  for (size_t i = 0; i < values.size(); ++i) x.set(static_cast<int64_t>(i), values[i]);
  Array one(DType::f32, {1, 1});
  one.set(0, 1);
  const PackedMatrix matrix = packed(*backend, one, false, DType::f32);
  for (const Activation activation : {Activation::gelu_tanh, Activation::gelu_erf}) {
    const Array out(DType::f32, {x.size(), 1});
    linear(*backend, {x.view(), matrix, {}, activation, false, out.view()});
    for (int64_t i = 0; i < x.size(); ++i) EXPECT_EQ(out.at(i), std::max(0.0F, x.at(i))) << x.at(i);
  }
}

TEST_P(LinearTest, PacksWhatTheReferencePacks) {
  const auto reference = make_ref_backend();
  const auto backend = cpu(isa(), 2);
  // One storage for all sources of two bytes an element, misaligned for words.
  std::vector<uint16_t> halves(40000);
  std::mt19937 random(3);
  for (uint16_t& half : halves) half = static_cast<uint16_t>(random() & 0xbfffU);  // finite
  const Array floats(DType::f32, {200, 100});
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const DType from : {DType::f32, DType::f16, DType::bf16}) {
      const void* data = from == DType::f32 ? floats.view().data : halves.data() + 1;
      for (const int64_t cols : {1, 2, 31, 32, 33, 64, 71}) {
        const StridedMatrix straight{data, from, 45, cols, 75, 1};
        const StridedMatrix transposed{data, from, 45, cols, 1, 101};
        const StridedMatrix odd{data, from, 45, cols, 150, 2};
        StridedMatrix other = straight;
        other.rows = 7;
        for (const std::vector<StridedMatrix>& blocks : std::vector<std::vector<StridedMatrix>>{
                 {straight}, {transposed}, {odd}, {straight, other, straight}, {straight, transposed}}) {
          for (const bool gated : {false, true}) {
            if (gated && (blocks.size() != 2)) continue;
            const PackedMatrix expected = pack(*reference, {blocks, gated, dtype});
            const PackedMatrix actual = pack(*backend, {blocks, gated, dtype});
            ASSERT_EQ(actual.outputs, expected.outputs);
            ASSERT_EQ(actual.data.size(), expected.data.size());
            ASSERT_EQ(std::memcmp(actual.data.data(), expected.data.data(), actual.data.size()), 0)
                << dtype_name(from) << " to " << dtype_name(dtype) << " cols " << cols << " blocks " << blocks.size();
          }
        }
      }
    }
  }
}

TEST(PackedMatrixTest, LiesAsDocumented) {
  const auto reference = make_ref_backend();
  const int64_t outputs = 42;
  const int64_t inputs = 5;
  Array w(DType::f32, {outputs, inputs});
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, static_cast<float>(i));
  const PackedMatrix plain = packed(*reference, w, false, DType::f32);
  ASSERT_EQ(plain.panels(), 2);
  ASSERT_EQ(plain.panel_bytes(), 5U * 32 * 4);
  const auto* f32 = static_cast<const float*>(plain.data.data());
  EXPECT_EQ(f32[3 * 32 + 7], 7 * 5 + 3);
  EXPECT_EQ(f32[5 * 32 + 4 * 32 + 9], 41 * 5 + 4);
  EXPECT_EQ(f32[5 * 32 + 4 * 32 + 10], 0);
  const PackedMatrix gated = packed(*reference, w, true, DType::bf16);  // 21 gate, 21 up
  ASSERT_EQ(gated.panels(), 2);
  ASSERT_EQ(gated.panel_bytes(), 3U * 32 * 4);
  const auto* bf16 = static_cast<const BFloat16*>(gated.data.data());
  EXPECT_EQ(static_cast<float>(bf16[(1 * 32 + 2) * 2 + 1]), 2 * 5 + 3);
  EXPECT_EQ(static_cast<float>(bf16[(1 * 32 + 16 + 2) * 2 + 1]), (21 + 2) * 5 + 3);
  EXPECT_EQ(static_cast<float>(bf16[(2 * 32 + 2) * 2 + 1]), 0);                        // the missing sixth input
  EXPECT_EQ(static_cast<float>(bf16[(3 * 32 + 0 * 32 + 16 + 4) * 2]), (21 + 20) * 5);  // up row 20
  EXPECT_EQ(static_cast<float>(bf16[(3 * 32 + 0 * 32 + 5) * 2]), 0);                   // gate row 21
}

TEST(LinearDeathTest, RefusesWhatDoesNotFit) {
  const auto backend = make_ref_backend();
  const Array x(DType::f32, {2, 8});
  const Array w(DType::f32, {4, 8});
  const Array out(DType::f32, {2, 4});
  const PackedMatrix f32 = packed(*backend, w, false, DType::f32);
  const PackedMatrix bf16 = packed(*backend, w, false, DType::bf16);
  EXPECT_DEATH(linear(*backend, {x.view(), bf16, {}, Activation::none, false, out.view()}), "x is f32");
  EXPECT_DEATH(linear(*backend, {x.view(), f32, {}, Activation::silu_mul, false, out.view()}), "gated");
  EXPECT_DEATH(linear(*backend, {rows(x.view(), 0, 1), f32, {}, Activation::none, false, out.view()}), "out is");
  const std::vector<int32_t> rows_at = {2};
  const std::vector<int32_t> offsets = {0, 1};
  EXPECT_DEATH(grouped_linear(*backend, {x.view(), std::span(&f32, 1), view_of(rows_at), view_of(offsets),
                                         Activation::none, rows(out.view(), 0, 1)}),
               "row 2 of 2");
}

}  // namespace
}  // namespace keye::ops
