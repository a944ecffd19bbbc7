#include "ops/cuda/emulator.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "ops/cuda/mma.h"

namespace keye::ops::cuda {
namespace {

__global__ void product(const bf16* a, const bf16* b, float* c, int k) {
  bf16* tile = dynamic_shared<bf16>();  // a [16][16], then b [16][8] padded to rows of 16 bytes
  const int lane = static_cast<int>(threadIdx.x);
  float sum[4] = {};
  for (int k0 = 0; k0 < k; k0 += 16) {
    copy_async(tile + lane * 8, a + lane / 2 * k + k0 + lane % 2 * 8, true);
    if (lane < 16) copy_async(tile + 256 + lane * 8, b + (k0 + lane) * 8, true);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    uint32_t fragment_a[4];
    uint32_t fragment_b[4];
    load_matrices(fragment_a, tile + (lane % 16) * 16 + lane / 16 * 8);
    load_matrices_transposed(fragment_b, tile + 256 + (lane % 16) * 8);
    mma_bf16(sum, fragment_a, {fragment_b[0], fragment_b[1]});
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

TEST(CudaEmulator, TensorCoreProduct) {
  const int k = 48;
  std::mt19937 random(3);
  std::vector<bf16> a(16 * k);
  std::vector<bf16> b(k * 8);
  for (bf16& x : a) x = to_bf16(static_cast<float>(random() % 17) - 8);
  for (bf16& x : b) x = to_bf16(static_cast<float>(random() % 17) - 8);
  for (uint32_t seed = 1; seed < 4; ++seed) {
    emulator::set_order_seed(seed);
    std::vector<float> c(128);
    launch(nullptr, 1, 32, 4096, product, a.data(), b.data(), c.data(), k);
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float expected = 0;
        for (int i = 0; i < k; ++i) expected += to_float(a[row * k + i]) * to_float(b[i * 8 + column]);
        EXPECT_EQ(c[row * 8 + column], expected);
      }
    }
  }
}

__global__ void sums(const float* x, float* out) {
  __shared__ float parts[4];
  float sum = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = parts[0] + parts[1] + parts[2] + parts[3];
}

TEST(CudaEmulator, Collectives) {
  std::vector<float> x(256);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  std::vector<float> out(2);
  launch(nullptr, 2, 128, 0, sums, x.data(), out.data());
  EXPECT_EQ(out[0], 127 * 128 / 2);
  EXPECT_EQ(out[1], 128 * 128 + 127 * 128 / 2);
}

__global__ void uneven(int* out) {
  if (threadIdx.x < 16) __syncwarp();
  __syncthreads();
  out[threadIdx.x] = 1;
}

TEST(CudaEmulatorDeathTest, ThreadsThatWaitForEachOther) {
  std::vector<int> out(32);
  EXPECT_DEATH(launch(nullptr, 1, 32, 0, uneven, out.data()), "wait for each other");
}

}  // namespace
}  // namespace keye::ops::cuda
