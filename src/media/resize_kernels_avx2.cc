// Compiled with -mavx2, called only where the processor has it.
#include <immintrin.h>

#include "media/resize_kernels.h"

namespace keye::media {

const ResizeKernels& avx2_resize_kernels();

namespace {

/// Four pixels are 12 bytes, read as 16.
constexpr int kPixels = 4;
constexpr int kPixelsRead = 6;

/// 8 numbers to bytes, clipped to 0..255.
inline __m128i pack_bytes(__m256i low, __m256i high) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/// Each half of a register sums one of two neighbouring input pixels, as red, green, blue and nothing.
void row_avx2(const uint8_t* in, int in_width, const Taps& taps, uint8_t* out, int width) {
  const __m256i pixels01 = _mm256_setr_epi8(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, -1, -1, -1, -1,  //
                                            3, -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, -1, -1, -1, -1);
  const __m256i pixels23 = _mm256_setr_epi8(6, -1, -1, -1, 7, -1, -1, -1, 8, -1, -1, -1, -1, -1, -1, -1,  //
                                            9, -1, -1, -1, 10, -1, -1, -1, 11, -1, -1, -1, -1, -1, -1, -1);
  const __m256i weights01 = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const __m256i weights23 = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  for (int x = 0; x < width; ++x, out += 3) {
    const int32_t* weights = taps.weights + static_cast<size_t>(x) * taps.stride;
    const int first = taps.first[x];
    const int count = taps.count[x];
    const uint8_t* pixel = in + 3 * static_cast<size_t>(first);
    __m256i sum01 = _mm256_setzero_si256();
    __m256i sum23 = _mm256_setzero_si256();
    int t = 0;
    // Weights beyond `count` are zero up to a multiple of four, so a whole group may be taken wherever the bytes exist.
    for (; t < count && first + t + kPixelsRead <= in_width; t += kPixels, pixel += 3 * kPixels) {
      const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel)));
      const __m256i four = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + t)));
      sum01 = _mm256_add_epi32(sum01, _mm256_mullo_epi32(_mm256_shuffle_epi8(bytes, pixels01),
                                                         _mm256_permutevar8x32_epi32(four, weights01)));
      sum23 = _mm256_add_epi32(sum23, _mm256_mullo_epi32(_mm256_shuffle_epi8(bytes, pixels23),
                                                         _mm256_permutevar8x32_epi32(four, weights23)));
    }
    const __m256i sum = _mm256_add_epi32(sum01, sum23);
    const __m128i folded = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    alignas(16) int32_t channels[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(channels), _mm_add_epi32(folded, _mm_set1_epi32(kWeightHalf)));
    for (; t < count; ++t, pixel += 3) {
      for (int c = 0; c < 3; ++c) channels[c] += pixel[c] * weights[t];
    }
    for (int c = 0; c < 3; ++c) out[c] = round_weighted(channels[c]);
  }
}

void column_avx2(const uint8_t* const* rows, const int32_t* weights, int count, uint8_t* out, size_t bytes) {
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    __m256i sum[4];
    for (__m256i& lane : sum) lane = _mm256_set1_epi32(kWeightHalf);
    for (int t = 0; t < count; ++t) {
      const __m256i weight = _mm256_set1_epi32(weights[t]);
      for (size_t lane = 0; lane < 4; ++lane) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[t] + i + 8 * lane));
        sum[lane] = _mm256_add_epi32(sum[lane], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(eight), weight));
      }
    }
    for (__m256i& lane : sum) lane = _mm256_srai_epi32(lane, kWeightBits);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), pack_bytes(sum[0], sum[1]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i + 16), pack_bytes(sum[2], sum[3]));
  }
  for (; i < bytes; ++i) {
    int32_t sum = kWeightHalf;
    for (int t = 0; t < count; ++t) sum += rows[t][i] * weights[t];
    out[i] = round_weighted(sum);
  }
}

}  // namespace

const ResizeKernels& avx2_resize_kernels() {
  static constexpr ResizeKernels kKernels{row_avx2, column_avx2};
  return kKernels;
}

}  // namespace keye::media
