#include "ops/cpu/linear_codes_vbmi.inc"

namespace keye::ops {
namespace {

constexpr int64_t kAhead = 4096;  // bytes of codes that are asked for in advance

template <int kRows>
void multiply(const CodeTileProduct& tile) {
  const CodeTable table;
  const uint8_t* codes = tile.codes;
  const char* x[kRows];
  __m512 low[kRows];
  __m512 high[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    x[r] = static_cast<const char*>(tile.x_rows[r]);
    low[r] = high[r] = _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < tile.steps; ++i, codes += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kAhead), _MM_HINT_T0);
    const CodeTable::Step step = table.step(codes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const auto pair = (__m512bh)_mm512_broadcastd_epi32(_mm_loadu_si32(x[r] + 4 * i));
      low[r] = _mm512_dpbf16_ps(low[r], (__m512bh)step.low, pair);
      high[r] = _mm512_dpbf16_ps(high[r], (__m512bh)step.high, pair);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_ps(tile.sums + r * kTileLanes, low[r]);
    _mm512_storeu_ps(tile.sums + r * kTileLanes + 16, high[r]);
  }
}

}  // namespace

const CodeKernels& code_kernels_vbmi_bf16() {
  static const CodeKernels kernels = {.expand_bf16 = expand_bf16,
                                      .expand_f32 = code_kernels_avx2().expand_f32,
                                      .in_place = {multiply<1>, multiply<2>, multiply<3>, multiply<4>}};
  return kernels;
}

}  // namespace keye::ops
