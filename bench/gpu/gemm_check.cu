// Checks the Hopper matrix products against a plain kernel, compares their bits and times them beside cuBLASLt.
//
//   nvcc -std=c++20 -gencode=arch=compute_90a,code=sm_90a -O3 -DKEYE_GEMM_WATCHDOG -I src bench/gpu/gemm_check.cu
//        src/ops/cuda/gemm_wgmma.cu -cudart static -lcublasLt -o gemm_check
//
// One line per result, a JSON object at the end, exit status 1 if a check failed. Needs about 2 GiB and less than half
// a minute.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ops/cuda/gemm_wgmma.h"

namespace {

/// Element types of tensors here.
enum class DType : uint8_t { bf16, f32 };
using keye::ops::Activation;
using keye::ops::cuda::encode_weight_map;
using keye::ops::cuda::kWeightMapBytes;
using keye::ops::cuda::weight_map_offset;
using keye::ops::cuda::wgmma_gemm;
using keye::ops::cuda::wgmma_prepare;
using keye::ops::cuda::wgmma_supports;
using keye::ops::cuda::WgmmaGemm;
using keye::ops::cuda::WgmmaTile;

#define CUDA(call)                                                                                   \
  do {                                                                                               \
    const auto status_ = static_cast<cudaError_t>(call);                                             \
    if (status_ != cudaSuccess) {                                                                    \
      std::printf("FAILED %s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::fflush(stdout);                                                                           \
      std::_Exit(1);                                                                                 \
    }                                                                                                \
  } while (false)
#define CUBLAS(call)                                                                  \
  do {                                                                                \
    const cublasStatus_t status_ = (call);                                            \
    if (status_ != CUBLAS_STATUS_SUCCESS) {                                           \
      std::printf("FAILED %s:%d: %s: %d\n", __FILE__, __LINE__, #call, int(status_)); \
      std::fflush(stdout);                                                            \
      std::_Exit(1);                                                                  \
    }                                                                                 \
  } while (false)

int processors = 0;
int checks = 0, failures = 0;
double worst_bf16 = 0, worst_f32 = 0;
std::string json_bits, json_speed;

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);  // the last line before a hang tells where
}
void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  if (++failures <= 40) say("FAILED %s", what.c_str());
}

constexpr WgmmaTile kTiles[] = {WgmmaTile::automatic, WgmmaTile::t128x256, WgmmaTile::t128x192, WgmmaTile::t128x128,
                                WgmmaTile::t64x256,   WgmmaTile::t64x128,  WgmmaTile::t64x64};
constexpr const char* kTileNames[] = {"automatic", "128x256", "128x192", "128x128", "64x256", "64x128", "64x64"};
constexpr const char* kActivationNames[] = {"none", "silu_mul", "gelu_tanh", "gelu_erf"};

// ---- Memory.

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes) { CUDA(cudaMalloc(&data_, std::max<size_t>(bytes, 1))); }
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() { cudaFree(data_); }
  template <class T = void>
  T* get() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

template <class T>
Memory upload(const std::vector<T>& values) {
  Memory memory(values.size() * sizeof(T));
  CUDA(cudaMemcpy(memory.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

__device__ float random_at(uint64_t index, uint32_t seed) {  // in [-1, 1)
  uint64_t z = index + (uint64_t{seed} << 40) + 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int32_t>(z >> 32)) * (1.0F / 2147483648.0F);
}
__global__ void fill_bf16(__nv_bfloat16* to, size_t count, float scale, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    to[i] = __float2bfloat16(scale * random_at(i, seed));
  }
}
__global__ void fill_f32(float* to, size_t count, float scale, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    to[i] = scale * random_at(i, seed);
  }
}
void fill(void* to, DType dtype, size_t count, float scale, uint32_t seed) {
  if (dtype == DType::bf16) {
    fill_bf16<<<1024, 256>>>(static_cast<__nv_bfloat16*>(to), count, scale, seed);
  } else {
    fill_f32<<<1024, 256>>>(static_cast<float*>(to), count, scale, seed);
  }
  CUDA(cudaGetLastError());
}
size_t bytes_of(DType dtype) { return dtype == DType::bf16 ? 2 : 4; }

Memory random_x(int64_t n, int64_t inputs, uint32_t seed) {
  Memory x(n * inputs * 2);
  fill(x.get(), DType::bf16, n * inputs, 1.0F, seed);
  return x;
}

// Matrices of one shape, each followed by its map.
struct Weights {
  Memory memory;
  size_t stride = 0;  // bytes
  int64_t outputs = 0, inputs = 0;
  Memory table;

  void* matrix(int e) const { return memory.get<char>() + e * stride; }
};
Weights random_weights(int count, int64_t outputs, int64_t inputs, uint32_t seed) {
  Weights w;
  w.outputs = outputs;
  w.inputs = inputs;
  w.stride = weight_map_offset(outputs, inputs) + kWeightMapBytes;
  w.memory = Memory(count * w.stride);
  std::vector<const void*> table;
  std::vector<char> maps(count * kWeightMapBytes);
  for (int e = 0; e < count; ++e) {
    // So that sums are about 1.
    fill(w.matrix(e), DType::bf16, outputs * inputs, 3.0F / sqrtf(static_cast<float>(inputs)), seed + e);
    CUDA(encode_weight_map(&maps[e * kWeightMapBytes], w.matrix(e), outputs, inputs));
    table.push_back(w.matrix(e));
  }
  CUDA(cudaMemcpy2D(w.memory.get<char>() + weight_map_offset(outputs, inputs), w.stride, maps.data(), kWeightMapBytes,
                    kWeightMapBytes, count, cudaMemcpyHostToDevice));
  w.table = upload(table);
  return w;
}

// ---- The plain product and what follows it.

// z[t, o] in double, as f32. group_of: of each row, or null.
__global__ void plain_product(const __nv_bfloat16* x, const char* w, size_t stride, const int* group_of, float* z,
                              int n, int outputs, int inputs) {
  const int o = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int t = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (o >= outputs || t >= n) return;
  const int group = group_of == nullptr ? 0 : group_of[t];
  const auto* row = reinterpret_cast<const __nv_bfloat16*>(w + group * stride) + static_cast<int64_t>(o) * inputs;
  const auto* line = x + static_cast<int64_t>(t) * inputs;
  double sum = 0;
  for (int i = 0; i < inputs; ++i) sum += double{__bfloat162float(line[i])} * double{__bfloat162float(row[i])};
  z[static_cast<int64_t>(t) * outputs + o] = static_cast<float>(sum);
}

struct Expected {
  const float* z;
  int outputs;
  int columns;
  const float* bias;
  int activation;
  uint32_t old_seed;  // what out held before, if it accumulates
  bool accumulate;
};
__device__ double expected_at(const Expected& e, int64_t t, int c) {
  const auto z_at = [&](int o) {
    return double{e.z[t * e.outputs + o]} + (e.bias == nullptr ? 0.0 : double{e.bias[o]});
  };
  double value;
  if (e.activation == 1) {
    const int gate = c / 8 * 16 + c % 8;
    value = z_at(gate) / (1 + exp(-z_at(gate))) * z_at(gate + 8);
  } else {
    const double z = z_at(c);
    value = e.activation == 0   ? z
            : e.activation == 2 ? 0.5 * z * (1 + tanh(0.79788456080286536 * (z + 0.044715 * z * z * z)))
                                : 0.5 * z * (1 + erf(z * 0.70710678118654752));
  }
  return value + (e.accumulate ? double{random_at(t * e.columns + c, e.old_seed)} : 0.0);
}
// totals: squared error, squared expected values.
__global__ void compare(Expected e, const void* out, bool f32, int64_t n, double* totals) {
  double error = 0, norm = 0;
  const int64_t count = n * e.columns;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const double want = expected_at(e, i / e.columns, static_cast<int>(i % e.columns));
    const double have = f32 ? double{static_cast<const float*>(out)[i]}
                            : double{__bfloat162float(static_cast<const __nv_bfloat16*>(out)[i])};
    error += (have - want) * (have - want);
    norm += want * want;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    error += __shfl_down_sync(~0U, error, distance);
    norm += __shfl_down_sync(~0U, norm, distance);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(totals, error);
    atomicAdd(totals + 1, norm);
  }
}
__global__ void count_other_bytes(const uint8_t* data, size_t bytes, uint8_t value, unsigned long long* count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < bytes; i += size_t{gridDim.x} * blockDim.x) {
    if (data[i] != value) atomicAdd(count, 1ULL);
  }
}
template <class T>
__global__ void count_different(const T* a, const T* b, size_t count, unsigned long long* different) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    if (a[i] != b[i]) atomicAdd(different, 1ULL);
  }
}
unsigned long long differences(const void* a, const void* b, DType dtype, size_t count) {
  static const Memory total(8);
  CUDA(cudaMemset(total.get(), 0, 8));
  auto* counter = total.get<unsigned long long>();
  if (dtype == DType::bf16) {
    count_different<<<512, 256>>>(static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), count, counter);
  } else {
    count_different<<<512, 256>>>(static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b), count, counter);
  }
  CUDA(cudaGetLastError());
  unsigned long long result = 0;
  CUDA(cudaMemcpy(&result, counter, 8, cudaMemcpyDeviceToHost));
  return result;
}

// ---- 1. Results.

constexpr uint32_t kOldSeed = 99;
constexpr size_t kGuardBytes = 1 << 16;

// Runs the op (all but its out given) and compares its first `rows` rows; what follows them must stay as it was.
void check_result(WgmmaGemm op, const float* z, int64_t rows, Memory& out, const std::string& what) {
  const bool f32 = op.out_f32;
  const bool gated = op.activation == Activation::silu_mul;
  const auto columns = static_cast<int>(op.outputs / (gated ? 2 : 1));
  const size_t bytes = rows * columns * bytes_of(op.out_f32 ? DType::f32 : DType::bf16);
  op.out = out.get();
  CUDA(cudaMemset(out.get(), 0xff, bytes + kGuardBytes));  // NaN in both types
  if (op.accumulate) fill(out.get(), DType::f32, rows * columns, 1.0F, kOldSeed);
  check(wgmma_supports(op), what + ": not supported");
  CUDA(wgmma_gemm(op, nullptr, processors));
  static const Memory results(24);
  CUDA(cudaMemset(results.get(), 0, 24));
  const Expected e{
      z, static_cast<int>(op.outputs), columns, op.bias, static_cast<int>(op.activation), kOldSeed, op.accumulate};
  compare<<<512, 256>>>(e, out.get(), f32, rows, results.get<double>());
  CUDA(cudaGetLastError());
  count_other_bytes<<<64, 256>>>(out.get<uint8_t>() + bytes, kGuardBytes, 0xff, results.get<unsigned long long>() + 2);
  CUDA(cudaGetLastError());
  double totals[3];
  CUDA(cudaMemcpy(totals, results.get(), 24, cudaMemcpyDeviceToHost));
  unsigned long long touched = 0;
  std::memcpy(&touched, &totals[2], 8);
  const double error = rows == 0 ? 0 : std::sqrt(totals[0] / totals[1]);
  double& worst = f32 ? worst_f32 : worst_bf16;
  if (error > worst) worst = error;
  check(error < (f32 ? 2e-5 : 3e-3), what + ": error " + std::to_string(error));  // false for NaN
  check(touched == 0, what + ": " + std::to_string(touched) + " bytes behind the end were written");
}

// All activations, with and without bias and accumulation; `turn` picks the tile.
void check_variants(WgmmaGemm op, const float* z, int64_t rows, const float* bias, Memory& out, int& turn,
                    const std::string& what) {
  struct Variant {
    DType dtype;
    bool bias, accumulate;
  };
  constexpr Variant kVariants[] = {
      {DType::bf16, false, false}, {DType::bf16, true, false}, {DType::f32, true, false}, {DType::f32, false, true}};
  for (int activation = 0; activation < 4; ++activation) {
    op.activation = static_cast<Activation>(activation);
    if (op.activation == Activation::silu_mul && op.outputs % 16 != 0) {
      check(!wgmma_supports(op), what + ": gated and supported");
      continue;
    }
    for (const Variant& v : kVariants) {
      op.out_f32 = v.dtype == DType::f32;
      op.bias = v.bias ? bias : nullptr;
      op.accumulate = v.accumulate;
      const int tile = turn++ % 7;
      op.tile = kTiles[tile];
      check_result(op, z, rows, out,
                   what + " " + kActivationNames[activation] + (v.bias ? " bias" : "") +
                       (v.accumulate ? " accumulate" : "") + (v.dtype == DType::f32 ? " f32 " : " bf16 ") +
                       kTileNames[tile]);
    }
  }
}

void plain(const Memory& x, const Weights& w, const int* group_of, int64_t n, float* z) {
  const dim3 block(32, 8);
  const dim3 grid(static_cast<unsigned>((w.outputs + 31) / 32), static_cast<unsigned>((n + 7) / 8));
  plain_product<<<grid, block>>>(x.get<__nv_bfloat16>(), w.memory.get<char>(), w.stride, group_of, z,
                                 static_cast<int>(n), static_cast<int>(w.outputs), static_cast<int>(w.inputs));
  CUDA(cudaGetLastError());
}

void check_dense() {
  const int64_t kRows[] = {1, 3, 64, 100, 129, 300, 1000};
  const int64_t kOutputs[] = {16, 30, 48, 49, 256, 1536, 2000, 4304};
  Memory out(1000 * 4304 * 4 + kGuardBytes), z(1000 * 4304 * 4), bias(4304 * 4);
  fill(bias.get(), DType::f32, 4304, 1.0F, 7);
  int turn = 0;
  for (const int64_t inputs : {64, 72, 128, 2048}) {
    say("dense, %d inputs ...", static_cast<int>(inputs));
    for (const int64_t outputs : kOutputs) {
      const Weights w = random_weights(1, outputs, inputs, 11);
      for (const int64_t n : kRows) {
        const Memory x = random_x(n, inputs, 5);
        plain(x, w, nullptr, n, z.get<float>());
        WgmmaGemm op;
        op.x = x.get();
        op.n = n;
        op.inputs = inputs;
        op.outputs = outputs;
        op.w = w.matrix(0);
        check_variants(op, z.get<float>(), n, bias.get<float>(), out, turn,
                       "dense n " + std::to_string(n) + " " + std::to_string(inputs) + "->" + std::to_string(outputs));
      }
    }
  }
  WgmmaGemm odd;
  odd.n = 1;
  odd.inputs = 588;
  odd.outputs = 16;
  check(!wgmma_supports(odd), "588 inputs are supported");
}

std::vector<int> offsets_of(const std::vector<int>& sizes) {
  std::vector<int> offsets = {0};
  for (const int size : sizes) offsets.push_back(offsets.back() + size);
  return offsets;
}

void check_grouped() {
  std::vector<std::vector<int>> divisions = {
      {0, 1, 300, 0, 64, 129, 3, 65, 0}, {700}, {0, 0, 0, 900, 0}, {1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 0}};
  std::vector<int> many(70, 0);  // more than a warp looks at together, the first of them empty
  for (int e = 33; e < 70; ++e) many[e] = e * 7 % 40;
  many[69] = 0;
  divisions.push_back(many);
  std::vector<int> wide(96, 5);
  wide[95] = 200;
  divisions.push_back(wide);
  const int64_t kShapes[][2] = {{72, 48}, {128, 2000}, {768, 256}, {2048, 320}};  // inputs, outputs
  constexpr int64_t kMost = 2000;
  Memory out(kMost * 2000 * 4 + kGuardBytes), z(kMost * 2000 * 4), bias(2000 * 4);
  fill(bias.get(), DType::f32, 2000, 1.0F, 8);
  int turn = 0;
  for (const auto& shape : kShapes) {
    say("grouped, %d->%d ...", static_cast<int>(shape[0]), static_cast<int>(shape[1]));
    const Weights w = random_weights(96, shape[1], shape[0], 21);
    for (size_t i = 0; i < divisions.size(); ++i) {
      const std::vector<int> offsets = offsets_of(divisions[i]);
      const int rows = offsets.back();
      std::vector<int> group_of(rows + 1);
      for (size_t e = 0; e + 1 < offsets.size(); ++e) {
        std::fill(group_of.begin() + offsets[e], group_of.begin() + offsets[e + 1], static_cast<int>(e));
      }
      const Memory device_offsets = upload(offsets), device_group_of = upload(group_of);
      const int64_t n = rows + 5;  // the last of which belong to nobody
      const Memory x = random_x(n, shape[0], 6);
      if (rows > 0) plain(x, w, device_group_of.get<int>(), rows, z.get<float>());
      WgmmaGemm op;
      op.x = x.get();
      op.n = n;
      op.inputs = shape[0];
      op.outputs = shape[1];
      op.device_table = w.table.get<const void*>();
      op.offsets = device_offsets.get<int>();
      op.groups = static_cast<int>(divisions[i].size());
      check_variants(op, z.get<float>(), rows, bias.get<float>(), out, turn,
                     "grouped " + std::to_string(i) + " " + std::to_string(shape[0]) + "->" + std::to_string(shape[1]));
    }
  }
}

// ---- 2. A row's bits, whatever is beside it.

void check_rows_alone(int64_t inputs, int64_t outputs, Activation activation, DType dtype) {
  constexpr int64_t kRows = 1000;
  const Weights w = random_weights(1, outputs, inputs, 31);
  const Memory x = random_x(kRows, inputs, 32);
  const int64_t columns = outputs / (activation == Activation::silu_mul ? 2 : 1);
  const size_t bytes = kRows * columns * bytes_of(dtype);
  Memory want(bytes), have(bytes);
  WgmmaGemm op;
  op.x = x.get();
  op.n = kRows;
  op.inputs = inputs;
  op.outputs = outputs;
  op.w = w.matrix(0);
  op.activation = activation;
  op.out_f32 = dtype == DType::f32;
  op.out = want.get();
  op.tile = WgmmaTile::t128x256;
  CUDA(wgmma_gemm(op, nullptr, processors));
  op.out = have.get();
  const std::string what = "bits " + std::to_string(inputs) + "->" + std::to_string(outputs) + " " +
                           kActivationNames[static_cast<int>(activation)];
  const std::vector<const void*> table(3, w.matrix(0));
  const Memory device_table = upload(table);
  for (int tile = 0; tile < 7; ++tile) {
    for (const int64_t n : {1, 17, 1000}) {
      op.tile = kTiles[tile];
      op.n = n;
      for (const bool grouped : {false, true}) {
        const auto rows = static_cast<int>(n);
        const Memory offsets = upload(std::vector<int>{0, rows * 3 / 8, rows * 3 / 8, rows});
        op.device_table = grouped ? device_table.get<const void*>() : nullptr;
        op.offsets = grouped ? offsets.get<int>() : nullptr;
        op.groups = grouped ? 3 : 0;
        CUDA(cudaMemset(have.get(), 0xff, bytes));
        CUDA(wgmma_gemm(op, nullptr, processors));
        const auto different = differences(want.get(), have.get(), dtype, n * columns);
        check(different == 0, what + (grouped ? " grouped " : " dense ") + kTileNames[tile] + " n " +
                                  std::to_string(n) + ": " + std::to_string(different) + " differ");
      }
    }
  }
  say("%s: done", what.c_str());
}

// ---- 3. Other kernels' bits.

// One warp per 16 x 8 results, k in steps of kStep.
template <int kStep>
__global__ void mma_product(const __nv_bfloat16* x, const __nv_bfloat16* w, float* out, int n, int outputs,
                            int inputs) {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const int row = static_cast<int>(blockIdx.y) * 16 + g;
  const int column = static_cast<int>(blockIdx.x) * 8;
  const auto two = [&](const __nv_bfloat16* from, int line, int lines, int i) -> uint32_t {
    if (line >= lines || i >= inputs) return 0;  // inputs are even
    return *reinterpret_cast<const uint32_t*>(from + static_cast<int64_t>(line) * inputs + i);
  };
  float c[4] = {};
  for (int k = 0; k < inputs; k += kStep) {
    const int i = k + 2 * t;
    const uint32_t a0 = two(x, row, n, i), a1 = two(x, row + 8, n, i), b0 = two(w, column + g, outputs, i);
    if constexpr (kStep == 16) {
      const uint32_t a2 = two(x, row, n, i + 8), a3 = two(x, row + 8, n, i + 8),
                     b1 = two(w, column + g, outputs, i + 8);
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(b0));
    }
  }
  for (int i = 0; i < 4; ++i) {
    const int at_row = row + i / 2 * 8, at_column = column + 2 * t + i % 2;
    if (at_row < n && at_column < outputs) out[static_cast<int64_t>(at_row) * outputs + at_column] = c[i];
  }
}

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

// out [n, outputs] = x w^T for `batch` products, with the first algorithm that cuBLASLt proposes.
class Cublas {
 public:
  Cublas() : workspace_(kWorkspaceBytes) { CUBLAS(cublasLtCreate(&handle_)); }

  struct Plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algorithm;
  };
  // Plans live until the program ends.
  Plan plan(int64_t n, int64_t inputs, int64_t outputs, DType out_dtype, int batch = 1, size_t w_stride_bytes = 0) {
    Plan p;
    CUBLAS(cublasLtMatmulDescCreate(&p.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    CUBLAS(cublasLtMatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
    // Column-major: rows and columns change places.
    p.w = layout(CUDA_R_16BF, inputs, outputs, batch, static_cast<int64_t>(w_stride_bytes / 2));
    p.x = layout(CUDA_R_16BF, inputs, n, batch, n * inputs);
    p.out = layout(out_dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF, outputs, n, batch, n * outputs);
    cublasLtMatmulPreference_t preference;
    CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                                sizeof(kWorkspaceBytes)));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    CUBLAS(cublasLtMatmulAlgoGetHeuristic(handle_, p.product, p.w, p.x, p.out, p.out, preference, 1, &found, &count));
    if (count == 0) {
      say("FAILED: cuBLASLt knows no algorithm");
      std::_Exit(1);
    }
    CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    p.algorithm = found.algo;
    return p;
  }
  void run(const Plan& p, const void* x, const void* w, void* out, bool accumulate = false) {
    const float one = 1, kept = accumulate ? 1 : 0;
    CUBLAS(cublasLtMatmul(handle_, p.product, &one, w, p.w, x, p.x, &kept, out, p.out, out, p.out, &p.algorithm,
                          workspace_.get(), kWorkspaceBytes, nullptr));
  }

 private:
  static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int batch, int64_t stride) {
    cublasLtMatrixLayout_t made;
    CUBLAS(cublasLtMatrixLayoutCreate(&made, type, rows, columns, rows));
    if (batch > 1) {
      CUBLAS(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
      CUBLAS(
          cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
    }
    return made;
  }

  cublasLtHandle_t handle_ = nullptr;
  Memory workspace_;
};

void compare_bits(Cublas& cublas, int64_t n, int64_t inputs, int64_t outputs) {
  const Weights w = random_weights(1, outputs, inputs, 41);
  const Memory x = random_x(n, inputs, 42);
  const int64_t count = n * outputs;
  Memory ours(count * 4), other(count * 4);
  WgmmaGemm op;
  op.x = x.get();
  op.n = n;
  op.inputs = inputs;
  op.outputs = outputs;
  op.w = w.matrix(0);
  op.out = ours.get();
  op.out_f32 = true;
  CUDA(wgmma_gemm(op, nullptr, processors));
  const auto report = [&](const char* name) {
    CUDA(cudaGetLastError());
    const double equal = 1 - static_cast<double>(differences(ours.get(), other.get(), DType::f32, count)) / count;
    say("bits: wgmma and %-9s n %4d %4d->%4d: %.6f equal", name, static_cast<int>(n), static_cast<int>(inputs),
        static_cast<int>(outputs), equal);
    char line[160];
    std::snprintf(line, sizeof(line),
                  "%s{\"with\": \"%s\", \"n\": %d, \"inputs\": %d, \"outputs\": %d, \"equal\": %.6f}",
                  json_bits.empty() ? "" : ", ", name, static_cast<int>(n), static_cast<int>(inputs),
                  static_cast<int>(outputs), equal);
    json_bits += line;
    CUDA(cudaMemset(other.get(), 0xff, other.bytes()));
  };
  const dim3 grid(static_cast<unsigned>((outputs + 7) / 8), static_cast<unsigned>((n + 15) / 16));
  const auto* xs = x.get<__nv_bfloat16>();
  const auto* ws = static_cast<const __nv_bfloat16*>(w.matrix(0));
  const auto sizes = [](int64_t size) { return static_cast<int>(size); };
  mma_product<16><<<grid, 32>>>(xs, ws, other.get<float>(), sizes(n), sizes(outputs), sizes(inputs));
  report("mma k16");
  mma_product<8><<<grid, 32>>>(xs, ws, other.get<float>(), sizes(n), sizes(outputs), sizes(inputs));
  report("mma k8");
  cublas.run(cublas.plan(n, inputs, outputs, DType::f32), x.get(), w.matrix(0), other.get());
  report("cuBLASLt");
}

// ---- 4. Speed.

// Median time of run(i), i counting up, in seconds.
double seconds_of(const std::function<void(int)>& run) {
  constexpr int kWarm = 2, kRuns = 11;
  std::vector<cudaEvent_t> events(kRuns + 1);
  for (cudaEvent_t& event : events) CUDA(cudaEventCreate(&event));
  for (int i = 0; i < kWarm; ++i) run(i);
  CUDA(cudaEventRecord(events[0]));
  for (int i = 0; i < kRuns; ++i) {
    run(kWarm + i);
    CUDA(cudaEventRecord(events[i + 1]));
  }
  CUDA(cudaEventSynchronize(events[kRuns]));
  std::vector<float> times(kRuns);
  for (int i = 0; i < kRuns; ++i) CUDA(cudaEventElapsedTime(&times[i], events[i], events[i + 1]));
  for (cudaEvent_t& event : events) CUDA(cudaEventDestroy(event));
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2] * 1e-3;
}

void report_speed(const std::string& what, const char* who, double operations, double seconds) {
  say("speed: %-44s %-10s %8.1f us %7.1f TFLOP/s", what.c_str(), who, seconds * 1e6, operations / seconds * 1e-12);
  char line[240];
  std::snprintf(line, sizeof(line), "%s{\"shape\": \"%s\", \"who\": \"%s\", \"us\": %.2f, \"tflops\": %.1f}",
                json_speed.empty() ? "" : ", ", what.c_str(), who, seconds * 1e6, operations / seconds * 1e-12);
  json_speed += line;
}

struct Shape {
  int64_t n, inputs, outputs;
  Activation activation = Activation::none;
  DType out = DType::bf16;
  bool accumulate = false;
};

void time_dense(Cublas& cublas, const Shape& s, bool every_tile) {
  const double operations = 2.0 * s.n * s.inputs * s.outputs;
  const size_t set_bytes = 2 * (s.n * s.inputs + s.inputs * s.outputs) + bytes_of(s.out) * s.n * s.outputs;
  // The L2 has 50 or 60 MB.
  const int sets = static_cast<int>(std::clamp<size_t>((size_t{200} << 20) / set_bytes + 1, 1, 32));
  std::vector<Memory> xs, outs;
  for (int i = 0; i < sets; ++i) {
    xs.push_back(random_x(s.n, s.inputs, 50 + i));
    outs.emplace_back(s.n * s.outputs * bytes_of(s.out));
    CUDA(cudaMemset(outs.back().get(), 0, outs.back().bytes()));
  }
  const Weights w = random_weights(sets, s.outputs, s.inputs, 60);
  const std::string what = "n " + std::to_string(s.n) + " " + std::to_string(s.inputs) + "->" +
                           std::to_string(s.outputs) + " " + kActivationNames[static_cast<int>(s.activation)] +
                           (s.out == DType::f32 ? " f32" : "") + (s.accumulate ? " accumulate" : "");
  const Cublas::Plan plan = cublas.plan(s.n, s.inputs, s.outputs, s.out);
  report_speed(what, "cuBLASLt", operations, seconds_of([&](int i) {
                 cublas.run(plan, xs[i % sets].get(), w.matrix(i % sets), outs[i % sets].get(), s.accumulate);
               }));
  for (int tile = 0; tile < (every_tile ? 7 : 1); ++tile) {
    WgmmaGemm op;
    op.n = s.n;
    op.inputs = s.inputs;
    op.outputs = s.outputs;
    op.activation = s.activation;
    op.accumulate = s.accumulate;
    op.out_f32 = s.out == DType::f32;
    op.tile = kTiles[tile];
    report_speed(what, tile == 0 ? "keye" : kTileNames[tile], operations, seconds_of([&](int i) {
                   op.x = xs[i % sets].get();
                   op.w = w.matrix(i % sets);
                   op.out = outs[i % sets].get();
                   CUDA(wgmma_gemm(op, nullptr, processors));
                 }));
  }
}

void time_grouped(Cublas& cublas, const Shape& s, int groups, const Weights& w, bool every_tile) {
  const double operations = 2.0 * s.n * s.inputs * s.outputs;
  const Memory x = random_x(s.n, s.inputs, 70);
  Memory out(s.n * s.outputs * 2);
  const std::string what = std::to_string(groups) + " groups, n " + std::to_string(s.n) + " " +
                           std::to_string(s.inputs) + "->" + std::to_string(s.outputs) + " " +
                           kActivationNames[static_cast<int>(s.activation)];
  if (s.n % groups == 0) {
    const Cublas::Plan plan = cublas.plan(s.n / groups, s.inputs, s.outputs, DType::bf16, groups, w.stride);
    report_speed(what, "cuBLASLt", operations,
                 seconds_of([&](int) { cublas.run(plan, x.get(), w.matrix(0), out.get()); }));
  }
  for (const bool even : {true, false}) {
    std::vector<int> sizes(groups, static_cast<int>(s.n / groups));
    // Else neighbours' sizes are shifted: by up to all rows of one of them.
    for (int e = 0; e + 1 < groups && !even; e += 2) {
      const int shift = sizes[e] * (e * 37 % 100) / 100;
      sizes[e] -= shift;
      sizes[e + 1] += shift;
    }
    const Memory offsets = upload(offsets_of(sizes));
    for (int tile = 0; tile < (every_tile && !even ? 7 : 1); ++tile) {
      WgmmaGemm op;
      op.x = x.get();
      op.n = s.n;
      op.inputs = s.inputs;
      op.outputs = s.outputs;
      op.device_table = w.table.get<const void*>();
      op.offsets = offsets.get<int>();
      op.groups = groups;
      op.activation = s.activation;
      op.out = out.get();
      op.tile = kTiles[tile];
      const std::string who = std::string(tile == 0 ? "keye" : kTileNames[tile]) + (even ? "" : " uneven");
      report_speed(what, who.c_str(), operations, seconds_of([&](int) { CUDA(wgmma_gemm(op, nullptr, processors)); }));
    }
  }
}

void time_all(Cublas& cublas) {
  time_dense(cublas, {8192, 8192, 8192}, false);
  time_dense(cublas, {8192, 2048, 5120}, true);
  time_dense(cublas, {8192, 4096, 2048}, true);
  time_dense(cublas, {8192, 4096, 2048, Activation::none, DType::f32, true}, false);
  time_dense(cublas, {16384, 1152, 3456}, true);
  time_dense(cublas, {16384, 1152, 1152}, true);
  time_dense(cublas, {16384, 1152, 4304, Activation::gelu_tanh}, true);
  time_dense(cublas, {16384, 4304, 1152}, true);
  for (const int64_t n : {1, 16, 64, 256}) time_dense(cublas, {n, 2048, 5120}, n <= 64);
  constexpr int kGroups = 128;
  for (const Shape& s : {Shape{65536, 2048, 1536, Activation::silu_mul}, Shape{65536, 768, 2048}}) {
    const Weights w = random_weights(kGroups, s.outputs, s.inputs, 80);
    time_grouped(cublas, s, kGroups, w, true);
    for (const int64_t n : {256, 4096}) {
      Shape few = s;
      few.n = n;
      time_grouped(cublas, few, kGroups, w, true);
    }
  }
}

}  // namespace

int main() {
  alarm(120);  // whatever hangs
  cudaDeviceProp properties{};
  CUDA(cudaGetDeviceProperties(&properties, 0));
  processors = properties.multiProcessorCount;
  say("%s, %d processors", properties.name, processors);
  CUDA(wgmma_prepare());
  check_dense();
  check_grouped();
  say("results: %d checks, %d failed; largest error bf16 %.2e, f32 %.2e", checks, failures, worst_bf16, worst_f32);
  check_rows_alone(2048, 1536, Activation::none, DType::f32);
  check_rows_alone(2048, 1536, Activation::silu_mul, DType::bf16);
  check_rows_alone(1160, 304, Activation::gelu_erf, DType::f32);
  check_rows_alone(72, 304, Activation::gelu_tanh, DType::f32);
  say("cuBLASLt ...");
  Cublas cublas;
  for (const int64_t n : {1, 17, 1000}) {
    for (const int64_t inputs : {64, 768, 2048}) compare_bits(cublas, n, inputs, 1536);
  }
  time_all(cublas);
  CUDA(cudaDeviceSynchronize());
  std::printf(
      "{\"device\": \"%s\", \"checks\": %d, \"failed\": %d, \"error_bf16\": %.3e, \"error_f32\": %.3e, \"bits\": [%s], "
      "\"speed\": [%s]}\n",
      properties.name, checks, failures, worst_bf16, worst_f32, json_bits.c_str(), json_speed.c_str());
  return failures == 0 ? 0 : 1;
}
