#include "media/resize_kernels.h"

#include <algorithm>

namespace keye::media {
namespace {

void row_portable(const uint8_t* in, int, const Taps& taps, uint8_t* out, int width) {
  for (int x = 0; x < width; ++x, out += 3) {
    const int32_t* weights = taps.weights + static_cast<size_t>(x) * taps.stride;
    const uint8_t* pixel = in + 3 * static_cast<size_t>(taps.first[x]);
    int32_t sum[3] = {kWeightHalf, kWeightHalf, kWeightHalf};
    for (int t = 0; t < taps.count[x]; ++t, pixel += 3) {
      for (int c = 0; c < 3; ++c) sum[c] += pixel[c] * weights[t];
    }
    for (int c = 0; c < 3; ++c) out[c] = round_weighted(sum[c]);
  }
}

void column_portable(const uint8_t* const* rows, const int32_t* weights, int count, uint8_t* out, size_t bytes) {
  constexpr size_t kBlock = 64;
  for (size_t begin = 0; begin < bytes; begin += kBlock) {
    const size_t lanes = std::min(kBlock, bytes - begin);
    int32_t sum[kBlock];
    std::fill(sum, sum + kBlock, kWeightHalf);
    for (int t = 0; t < count; ++t) {
      const uint8_t* row = rows[t] + begin;
      for (size_t i = 0; i < lanes; ++i) sum[i] += row[i] * weights[t];
    }
    for (size_t i = 0; i < lanes; ++i) out[begin + i] = round_weighted(sum[i]);
  }
}

}  // namespace

const ResizeKernels& portable_resize_kernels() {
  static constexpr ResizeKernels kKernels{row_portable, column_portable};
  return kKernels;
}

#ifdef KEYE_X86
const ResizeKernels& avx2_resize_kernels();

const ResizeKernels& resize_kernels() {
  static const bool kAvx2 = __builtin_cpu_supports("avx2") != 0;
  return kAvx2 ? avx2_resize_kernels() : portable_resize_kernels();
}
#else
const ResizeKernels& resize_kernels() { return portable_resize_kernels(); }
#endif

}  // namespace keye::media
