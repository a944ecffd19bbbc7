#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/cpu/attention_lanes_avx512.inc"
#include "ops/cpu/attention_loops.inc"

namespace keye::ops {
namespace {

/// Products of bf16 planes: pairs, with the dot instruction.
struct DotProduct : Bf16Rows {
  static constexpr int kWords = 1;
  static constexpr int kBlockRows = 6;
  static constexpr int kKeyRegisters = Lanes::kTileRegisters;
  static constexpr int kValueRegisters = Lanes::kTileRegisters;
  using Operand = __m512;

  static int steps(int count) { return count / 2; }
  static size_t row_words(int dim) { return static_cast<size_t>(dim) / 2; }
  static __m512 load(const unsigned char* p) { return Lanes::load(reinterpret_cast<const float*>(p)).v; }
  static __m512 load_first(const unsigned char* p, int count) {
    return Lanes::load_first(reinterpret_cast<const float*>(p), count).v;
  }
  static __m512 broadcast(const float* p, int) { return _mm512_set1_ps(*p); }
  static void add(Lanes& sum, __m512 a, __m512 b) { sum.v = _mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b); }
  static void store_weights(float* row, const Lanes (&weights)[kPage / kLanes]) {
    for (int n = 0; n < kPage / kLanes; n += 2) {
      const __m512bh pairs = _mm512_cvtne2ps_pbh(weights[n + 1].v, weights[n].v);
      _mm512_storeu_si512(row + n / 2 * kLanes, (__m512i)pairs);
    }
  }
};

}  // namespace

const AttentionKernels& avx512_bf16_attention_bf16() {
  static constexpr AttentionKernels kernels = kernels_of<DotProduct>(false);
  return kernels;
}

}  // namespace keye::ops
