// Attention alone, at the shapes of Qwen3-0.6B and of the Keye vision encoder, beside what this machine can do:
//   ops_bench_attention [seconds per line]
// A figure is the best of many windows, so that a busy neighbour shows as little as possible.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "ops/backend.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/limits.h"
#include "tensor/tensor.h"

namespace keye::ops {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The shortest of the runs of `body` that fit into `seconds`, and of at least three.
template <class Body>
double shortest(double seconds, Body&& body) {
  double best = 1e30;
  const double end = now() + seconds;
  for (int runs = 0; runs < 3 || now() < end; ++runs) {
    const double start = now();
    body();
    best = std::min(best, now() - start);
  }
  return best;
}

/// Not zero, not random enough to need a generator: small numbers of both signs.
void fill(const View& view) {
  for (int64_t i = 0; i < view.elements(); ++i) {
    const float x = static_cast<float>((i * 7919) % 1024 - 512) / 512.0F;
    if (view.dtype == DType::f32) {
      view.as<float>()[i] = x;
    } else {
      view.as<BFloat16>()[i] = BFloat16(x);
    }
  }
}

struct Decoder {
  int heads = 16;
  int kv_heads = 8;
  int dim = 128;
};

/// Keys and values of several layers, so that a layer's are out of the caches when its turn comes again.
struct Cache {
  std::vector<Tensor> memory;
  std::vector<KvPlane> keys, values;
  std::vector<int32_t> pages;

  Cache(const Decoder& shape, int64_t tokens, int layers) {
    pages.resize(static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens));
    std::iota(pages.begin(), pages.end(), 0);
    const auto count = static_cast<int64_t>(pages.size());
    for (int i = 0; i < 2 * layers; ++i) {
      memory.emplace_back(DType::bf16, Shape{count, shape.kv_heads, kPageTokens, shape.dim});
      fill(memory.back().view());
      (i % 2 == 0 ? keys : values)
          .push_back({memory.back().as<std::byte>(), DType::bf16, i % 2 == 0 ? PlaneLayout::keys : PlaneLayout::values,
                      shape.kv_heads, shape.dim});
    }
  }
};

void bench_paged(Backend& backend, const MachineLimits& limits, const Decoder& shape, int context, int rows, int layers,
                 double seconds) {
  Cache cache(shape, context + rows, layers);
  Tensor q(DType::bf16, {rows, shape.heads, shape.dim});
  Tensor out(DType::bf16, {rows, shape.heads * shape.dim});
  fill(q.view());
  const SequenceRows sequence{0, rows, context, cache.pages};
  const double time = shortest(seconds, [&] {
    for (int layer = 0; layer < layers; ++layer) {
      paged_attention(backend, {.q = q.view(),
                                .k = cache.keys[static_cast<size_t>(layer)],
                                .v = cache.values[static_cast<size_t>(layer)],
                                .sequences = {&sequence, 1},
                                .scale = 1.0F / std::sqrt(static_cast<float>(shape.dim)),
                                .out = out.view()});
    }
  });
  const double keys = static_cast<double>(rows) * (context + 0.5 * (rows + 1));  // that rows look at
  const double flops = 4.0 * keys * shape.heads * shape.dim * layers / time;
  const double bytes =
      static_cast<double>(cache.pages.size()) * kPageTokens * shape.kv_heads * shape.dim * 4 * layers / time;
  fmt::print(
      "{:<10} {:>2} over {} heads of {}, {:>5} rows after {:>6}: {:>9.3f} ms a layer  {:>6.1f} GB/s ({:>3.0f} %)  "
      "{:>6.1f} GFLOP/s ({:>3.0f} %)\n",
      rows == 1 ? "decode" : "prefill", shape.heads, shape.kv_heads, shape.dim, rows, context, time / layers * 1e3,
      bytes / 1e9, 100 * bytes / limits.read_bytes_per_s, flops / 1e9, 100 * flops / limits.bf16_flops);
}

void bench_input(Backend& backend, const Decoder& shape, int rows, double seconds) {
  Cache cache(shape, rows, 1);
  Tensor qkv(DType::f32, {rows, (shape.heads + 2 * shape.kv_heads) * shape.dim});
  Tensor norm(DType::f32, {shape.dim});
  Tensor angles(DType::f32, {rows, shape.dim / 2});
  Tensor q(DType::bf16, {rows, shape.heads, shape.dim});
  fill(qkv.view());
  fill(norm.view());
  fill(angles.view());
  std::vector<int32_t> slots(static_cast<size_t>(rows));
  std::iota(slots.begin(), slots.end(), 0);
  const double time = shortest(seconds, [&] {
    attention_input(backend, {.qkv = qkv.view(),
                              .q_norm = norm.view(),
                              .k_norm = norm.view(),
                              .eps = 1e-6F,
                              .cos = angles.view(),
                              .sin = angles.view(),
                              .slots = slots,
                              .q = q.view(),
                              .k = cache.keys[0],
                              .v = cache.values[0]});
  });
  fmt::print("{:<10} {:>2} over {} heads of {}, {:>5} rows: {:>9.3f} ms a layer\n", "input", shape.heads,
             shape.kv_heads, shape.dim, rows, time * 1e3);
}

void bench_vision(Backend& backend, const MachineLimits& limits, int patches, double seconds) {
  constexpr int kHeads = 16;
  constexpr int kDim = 72;
  Tensor qkv(DType::bf16, {patches, 3, kHeads, kDim});
  Tensor angles(DType::f32, {patches, kDim / 2});
  Tensor out(DType::bf16, {patches, kHeads * kDim});
  fill(qkv.view());
  fill(angles.view());
  const std::vector<int32_t> segments = {0, patches};
  const double time = shortest(seconds, [&] {
    vision_attention(backend, {.qkv = qkv.view(),
                               .cos = angles.view(),
                               .sin = angles.view(),
                               .segments = segments,
                               .heads = kHeads,
                               .scale = 0.1178F,
                               .out = out.view()});
  });
  const double flops = 4.0 * patches * patches * kHeads * kDim / time;
  fmt::print("{:<10} {} heads of {}, {:>5} patches: {:>9.3f} ms a layer  {:>6.1f} GFLOP/s ({:>3.0f} %)\n", "vision",
             kHeads, kDim, patches, time * 1e3, flops / 1e9, 100 * flops / limits.bf16_flops);
}

int run(double seconds, const CpuOptions& options) {
  auto backend = make_cpu_backend(options);
  if (!backend.has_value()) {
    fmt::print(stderr, "{}\n", backend.error().to_string());
    return 1;
  }
  auto& cpu = static_cast<CpuBackend&>(**backend);
  MachineLimits limits;
  for (int i = 0; i < 3; ++i) {
    const MachineLimits now = measure_limits(cpu.pool(), cpu.isa(), std::max(1.0, seconds));
    limits.read_bytes_per_s = std::max(limits.read_bytes_per_s, now.read_bytes_per_s);
    limits.bf16_flops = std::max(limits.bf16_flops, now.bf16_flops);
    limits.f32_flops = std::max(limits.f32_flops, now.f32_flops);
  }
  fmt::print("{}: memory read {:.1f} GB/s, bf16 {:.1f} GFLOP/s, f32 {:.1f} GFLOP/s\n", cpu.name(),
             limits.read_bytes_per_s / 1e9, limits.bf16_flops / 1e9, limits.f32_flops / 1e9);
  const Decoder qwen;
  const Decoder keye{32, 4, 128};
  for (const int context : {511, 4095, 32767}) {
    const int layers = std::max(3, 28 * 1024 / (context + 1));  // far more than the caches hold
    bench_paged(cpu, limits, qwen, context, 1, layers, seconds);
    bench_paged(cpu, limits, keye, context, 1, layers, seconds);
  }
  bench_paged(cpu, limits, qwen, 0, 512, 1, seconds);
  bench_paged(cpu, limits, qwen, 3584, 512, 1, seconds);
  bench_paged(cpu, limits, keye, 3584, 512, 1, seconds);
  bench_input(cpu, qwen, 1, seconds);
  bench_input(cpu, qwen, 512, seconds);
  bench_vision(cpu, limits, 1024, seconds);
  bench_vision(cpu, limits, 5184, seconds);
  return 0;
}

}  // namespace
}  // namespace keye::ops

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  return keye::ops::run(seconds, {.threads = argc > 2 ? std::atoi(argv[2]) : 0, .isa = argc > 3 ? argv[3] : ""});
}
