// The two inner loops of a resize, once in plain C++ and once with AVX2; both give the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace keye::media {

/// Weights are fixed-point numbers with this many fractional bits; sums stay within 32 bits.
inline constexpr int kWeightBits = 22;

/// For every position of the output: the first input position under the kernel, how many there are, and their weights
/// (`stride` apart, the rest zero).
struct Taps {
  const int32_t* first = nullptr;
  const int32_t* count = nullptr;
  const int32_t* weights = nullptr;
  size_t stride = 0;
};

struct ResizeKernels {
  /// One row of RGB to `width` pixels. `in_width` is the input's, for staying inside it.
  void (*row)(const uint8_t* in, int in_width, const Taps& taps, uint8_t* out, int width);
  /// out[i] = the weighted sum of rows[t][i] over t < count, for i < bytes.
  void (*column)(const uint8_t* const* rows, const int32_t* weights, int count, uint8_t* out, size_t bytes);
};

const ResizeKernels& portable_resize_kernels();
/// The fastest that this processor runs.
const ResizeKernels& resize_kernels();

/// Static: the copy compiled for AVX2 must not be the one that others link to.
static inline uint8_t round_weighted(int32_t sum) {
  const int32_t value = sum >> kWeightBits;
  return value < 0 ? uint8_t{0} : value > 255 ? uint8_t{255} : static_cast<uint8_t>(value);
}

inline constexpr int32_t kWeightHalf = 1 << (kWeightBits - 1);

}  // namespace keye::media
