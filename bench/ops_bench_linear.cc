// Matrix products at the shapes of the models, as shares of what the machine can do, measured in the same run.
//   ops_bench_linear [threads] [isa] [seconds per line] [part of a product's name]
// Every figure is the best of the windows that fit into the seconds, as are the limits: neighbours only ever slow down.
// One thread is timed by its own processor time, so that they hardly count.
#include <fmt/format.h>

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "ops/backend.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/limits.h"
#include "ops/cpu/linear_plan.h"

namespace keye::ops {
namespace {

clockid_t clock_id = CLOCK_MONOTONIC;

double now() {
  timespec time{};
  ::clock_gettime(clock_id, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Line {
  const char* name;
  int64_t inputs;
  int64_t outputs;
  Activation activation;
  std::vector<int64_t> rows;
  DType dtype = DType::bf16;
};

constexpr Activation kNone = Activation::none;
constexpr Activation kGated = Activation::silu_mul;

const std::vector<Line>& lines() {
  static const std::vector<int64_t> few = {1, 2, 4, 8, 16, 32, 64, 512};
  static const std::vector<Line> all = {
      {"qwen3-0.6b q|k|v", 1024, 4096, kNone, few},
      {"qwen3-0.6b o", 2048, 1024, kNone, few},
      {"qwen3-0.6b gate|up", 1024, 6144, kGated, few},
      {"qwen3-0.6b down", 3072, 1024, kNone, few},
      {"qwen3-0.6b head", 1024, 151936, kNone, {1, 4}},
      {"qwen3-8b q|k|v", 4096, 6144, kNone, {1, 8, 64, 512}},
      {"qwen3-8b gate|up", 4096, 24576, kGated, {1, 512}},
      {"qwen3-8b down", 12288, 4096, kNone, {1, 64, 512}},
      {"vision q|k|v", 1152, 3456, kNone, {5184}},
      {"vision o", 1152, 1152, kNone, {1024, 5184}},
      {"vision up", 1152, 4304, Activation::gelu_tanh, {5184}},
      {"vision down", 4304, 1152, kNone, {1024, 5184}},
      {"f32 q|k|v", 1024, 4096, kNone, {1, 8, 512}, DType::f32},
  };
  return all;
}

void fill(const Tensor& tensor, const View& view) {
  uint32_t state = 1;
  for (int64_t i = 0; i < tensor.shape().elements(); ++i) {
    state = state * 1664525U + 1013904223U;
    const float value = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
    if (view.dtype == DType::bf16) {
      view.as<BFloat16>()[i] = BFloat16(value);
    } else {
      view.as<float>()[i] = value;
    }
  }
}

Tensor random_tensor(DType dtype, Shape shape) {
  Tensor tensor(dtype, shape);
  fill(tensor, tensor.view());
  return tensor;
}

PackedMatrix random_matrix(Backend& backend, const Line& line) {
  const Tensor w = random_tensor(line.dtype, {line.outputs, line.inputs});
  const bool gated = line.activation == kGated;
  const int64_t half = line.outputs / 2;
  const auto block = [&](int64_t begin, int64_t end) {
    return StridedMatrix{rows(w.view(), begin, end).data, line.dtype, end - begin, line.inputs, line.inputs, 1};
  };
  const StridedMatrix blocks[] = {block(0, gated ? half : line.outputs), block(half, line.outputs)};
  return pack(backend, {std::span(blocks, gated ? 2 : 1), gated, line.dtype});
}

/// The best time of one call. Few rows: the calls go round through copies of the matrix that no cache holds together.
double best_call(Backend& backend, const Line& line, int64_t n, std::span<const PackedMatrix> copies, double seconds) {
  const Tensor x = random_tensor(line.dtype, {n, line.inputs});
  Tensor out(DType::f32, {n, line.activation == kGated ? line.outputs / 2 : line.outputs});
  const size_t calls = n <= 64 ? copies.size() : 1;
  double best = 1e30;
  size_t at = 0;
  for (const double end = now() + seconds; best == 1e30 || now() < end;) {
    const double start = now();
    for (size_t i = 0; i < calls; ++i) {
      linear(backend, {x.view(), copies[at++ % copies.size()], {}, line.activation, false, out.view()});
    }
    best = std::min(best, (now() - start) / static_cast<double>(calls));
  }
  return best;
}

ConstView view_of(const std::vector<int32_t>& numbers) {
  return {numbers.data(), DType::i32, {static_cast<int64_t>(numbers.size())}};
}

/// The best time of one product of `tokens` rows with 8 of 64 experts each, and how many experts that were; the calls
/// take other experts each time.
std::pair<double, double> grouped_call(Backend& backend, std::span<const PackedMatrix> experts, int64_t tokens,
                                       double seconds) {
  constexpr int64_t kChosen = 8;
  const Tensor x = random_tensor(DType::bf16, {tokens, experts[0].inputs});
  Tensor out(DType::f32, {tokens * kChosen, experts[0].outputs / 2});
  double best = 1e30;
  double used = 0;
  uint32_t state = 1;
  for (const double end = now() + seconds; best == 1e30 || now() < end;) {
    std::vector<std::vector<int32_t>> of(experts.size());
    for (int64_t t = 0; t < tokens; ++t) {
      state = state * 1664525U + 1013904223U;
      for (int64_t j = 0; j < kChosen; ++j) {  // an odd stride: eight different ones
        of[((state >> 16) + static_cast<uint64_t>(j) * ((state >> 8) | 1U)) % experts.size()].push_back(
            static_cast<int32_t>(t));
      }
    }
    std::vector<int32_t> rows_at;
    std::vector<int32_t> offsets = {0};
    double count = 0;
    for (const std::vector<int32_t>& rows : of) {
      rows_at.insert(rows_at.end(), rows.begin(), rows.end());
      offsets.push_back(static_cast<int32_t>(rows_at.size()));
      count += rows.empty() ? 0 : 1;
    }
    const double start = now();
    grouped_linear(backend, {x.view(), experts, view_of(rows_at), view_of(offsets), kGated, out.view()});
    const double time = now() - start;
    if (time / count < best / std::max(1.0, used)) {
      best = time;
      used = count;
    }
  }
  return {best, used};
}

MachineLimits better(const MachineLimits& a, const MachineLimits& b) {
  return {std::max(a.read_bytes_per_s, b.read_bytes_per_s), std::max(a.bf16_flops, b.bf16_flops),
          std::max(a.f32_flops, b.f32_flops)};
}

struct Row {
  int64_t n = 0;
  double time = 0;
  double flops = 0;  // of the call
  double bytes = 0;  // of weights
};

/// What `measure` returns, beside the better of the limits before and after it: on shared machines they wander.
template <class Measure>
void report(CpuBackend& backend, double seconds, const Line& line, Measure&& measure) {
  const MachineLimits before = measure_limits(backend.pool(), backend.isa(), 2 * seconds);
  const std::vector<Row> rows = measure();
  const MachineLimits limits = better(before, measure_limits(backend.pool(), backend.isa(), 2 * seconds));
  const double peak = line.dtype == DType::bf16 ? limits.bf16_flops : limits.f32_flops;
  for (const Row& row : rows) {
    const double flops = row.flops / row.time;
    const double bytes = row.bytes / row.time;
    fmt::print("{:<20} {:>6} {:>6} {:>7} {:>10.1f} {:>9.1f} {:>6.1f}% of {:>6.1f} {:>8.1f} {:>6.1f}% of {:>5.1f}\n",
               line.name, row.n, line.inputs, line.outputs, row.time * 1e6, flops * 1e-9, 100 * flops / peak,
               peak * 1e-9, bytes * 1e-9, 100 * bytes / limits.read_bytes_per_s, limits.read_bytes_per_s * 1e-9);
  }
}

void run_line(CpuBackend& backend, const Line& line, double seconds) {
  const double weights = static_cast<double>(line.inputs * line.outputs);
  const double bytes = weights * static_cast<double>(dtype_bytes(line.dtype));
  std::vector<PackedMatrix> copies;
  do {
    copies.push_back(random_matrix(backend, line));
  } while (static_cast<double>(copies.size() + 1) * bytes < 4e8);
  report(backend, seconds, line, [&] {
    std::vector<Row> rows;
    for (const int64_t n : line.rows) {
      rows.push_back({n, best_call(backend, line, n, copies, seconds), 2 * weights * static_cast<double>(n), bytes});
    }
    return rows;
  });
}

void run_grouped(CpuBackend& backend, double seconds) {
  const Line line{"expert gate|up", 2048, 1536, kGated, {1, 4, 16, 64, 512}};
  std::vector<PackedMatrix> experts;
  experts.reserve(64);
  for (int e = 0; e < 64; ++e) experts.push_back(random_matrix(backend, line));
  const double weights = static_cast<double>(line.inputs * line.outputs);
  report(backend, seconds, line, [&] {
    std::vector<Row> rows;
    for (const int64_t tokens : line.rows) {
      const auto [time, used] = grouped_call(backend, experts, tokens, seconds);
      rows.push_back({tokens, time, 2 * weights * static_cast<double>(tokens) * 8, 2 * weights * used});
    }
    return rows;
  });
}

void run_pack(Backend& backend, double seconds) {
  const int64_t rows = 32768;
  const int64_t cols = 2048;
  for (const DType from : {DType::bf16, DType::f32}) {
    const Tensor w = random_tensor(from, {rows, cols});
    for (const bool transposed : {false, true}) {
      const StridedMatrix block{w.view().data, from, rows, cols, transposed ? 1 : cols, transposed ? rows : 1};
      double best = 1e30;
      for (const double end = now() + seconds; best == 1e30 || now() < end;) {
        const double start = now();
        const PackedMatrix packed = pack(backend, {std::span(&block, 1), false, DType::bf16});
        best = std::min(best, now() - start);
      }
      fmt::print("pack {} to bf16{}: {:.2f} GB/s of packed weights, fresh memory included\n", dtype_name(from),
                 transposed ? ", transposed" : "", static_cast<double>(rows * cols * 2) / best * 1e-9);
    }
  }
}

int run(int threads, const std::string& isa_word, double seconds, const std::string& part) {
  const Result<Isa> isa = isa_from_name(isa_word);
  if (!isa) {
    fmt::print(stderr, "{}\n", isa.error().to_string());
    return 1;
  }
  if (threads == 1) clock_id = CLOCK_THREAD_CPUTIME_ID;
  CpuBackend backend(threads, *isa);
  const auto wanted = [&](std::string_view name) { return name.find(part) != std::string_view::npos; };
  fmt::print("{} threads, {}\n{:<20} {:>6} {:>6} {:>7} {:>10} {:>9} {:>17} {:>8} {:>16}\n", threads, isa_name(*isa),
             "product", "rows", "inputs", "outputs", "us", "GFLOP/s", "share of peak", "GB/s", "share of read");
  for (const Line& line : lines()) {
    if (wanted(line.name)) run_line(backend, line, seconds);
  }
  if (wanted("expert")) run_grouped(backend, seconds);
  if (wanted("pack")) run_pack(backend, seconds);
  return 0;
}

}  // namespace
}  // namespace keye::ops

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : keye::ThreadPool::processors();
  const std::string isa = argc > 2 ? argv[2] : "";
  const double seconds = argc > 3 ? std::atof(argv[3]) : 0.5;
  return keye::ops::run(std::max(1, threads), isa, seconds, argc > 4 ? argv[4] : "");
}
