// Matrix products on Hopper's tensor cores (compute capability 9.0, sm_90a). No CUDA header: hosts include this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/activation.h"

namespace keye::ops::cuda {

/// Rows x columns of a block of the result. Every tile gives the same bits; the choice is one of speed.
enum class WgmmaTile : uint8_t { automatic, t128x256, t128x192, t128x128, t64x256, t64x128, t64x64 };

/// Dense: out[t, o] = act(sum_i x[t, i] w[o, i] + bias[o]), or out += that if accumulate.
/// Grouped (device_table is not null): the same for the rows offsets[e] <= t < offsets[e + 1] of x and out with the
/// matrix device_table[e]; rows from offsets[groups] on are left alone. Groups may be empty.
///   x        [n, inputs] bf16, 16-byte aligned
///   w        [outputs, inputs] bf16 in device memory, 128-byte aligned, followed by its map (below)
///   bias     [outputs] f32 in the order of w's rows, or null
///   out      [n, outputs] (silu_mul: outputs / 2) bf16 or f32; f32 if accumulate
/// silu_mul: w's rows come in blocks of 16: 8 of gate and then the same 8 of up.
/// An element's sum is f32, from zero over steps of 16 inputs in order: it depends on its row and column only.
struct WgmmaGemm {
  const void* x = nullptr;
  int64_t n = 0;
  int64_t inputs = 0, outputs = 0;
  const void* w = nullptr;                    // dense
  const void* const* device_table = nullptr;  // grouped: device memory, `groups` matrices of one shape
  const int32_t* offsets = nullptr;           // grouped: device memory [groups + 1], offsets[groups] <= n
  int groups = 0;
  const float* bias = nullptr;
  Activation activation = Activation::none;
  bool accumulate = false;
  void* out = nullptr;
  bool out_f32 = false;  // else bf16
  WgmmaTile tile = WgmmaTile::automatic;
};

/// A matrix in device memory is followed, from this offset on, by 128 bytes that encode_weight_map() made for the
/// address where the matrix lies. They must be there before the first kernel that uses them is launched.
inline constexpr size_t kWeightMapBytes = 128;
constexpr size_t weight_map_offset(int64_t outputs, int64_t inputs) {
  return (static_cast<size_t>(outputs) * static_cast<size_t>(inputs) * 2 + 127) / 128 * 128;
}
/// Writes kWeightMapBytes (any alignment) of host memory. Returns a cudaError_t.
[[nodiscard]] int encode_weight_map(void* host_128_bytes, const void* device_weights, int64_t outputs, int64_t inputs);

/// Whether shapes, types and addresses suit the kernel: among others, inputs are a multiple of 8.
bool wgmma_supports(const WgmmaGemm& op);
/// What is done once: finds the driver's encoder and lets the kernels use their shared memory, on the current device,
/// which must stay the only one. Otherwise the first launches do it. Returns a cudaError_t.
[[nodiscard]] int wgmma_prepare();
/// Launches on `stream` (a cudaStream_t) of the current device, which has `sm_count` multiprocessors. Neither allocates
/// nor waits, so graphs can capture it. Returns a cudaError_t; the op must be supported.
[[nodiscard]] int wgmma_gemm(const WgmmaGemm& op, void* stream, int sm_count);

}  // namespace keye::ops::cuda
