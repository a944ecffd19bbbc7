// The loops of the matrix products, written once over a small vector interface. Only the files of one instruction set
// include this; everything is local to each of them, so that no copy made for one processor can run on another.
//
// Vec:      one register of floats and what the epilogues need of it.
// Product:  kRowsMax, kInPlaceRowsMax; Sums (one row's 32 sums) and step(), one step of all rows.
#pragma once

#include <immintrin.h>

#include "ops/cpu/linear_kernels.h"

#define KEYE_INLINE inline __attribute__((always_inline))

namespace keye::ops {
namespace {

template <class Product, int kRows, bool kInPlace>
void multiply_tile(const TileProduct& tile) {
  typename Product::Sums sums[kRows];
  const auto* weights = static_cast<const char*>(tile.weights);
  const auto* x = static_cast<const char*>(tile.x);
  const char* rows[kRows];
  if constexpr (kInPlace) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) rows[r] = static_cast<const char*>(tile.x_rows[r]);
  }
  if (tile.resume) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r].load(tile.sums + r * kTileLanes);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r].clear();
  }
  const char* prefetch = tile.prefetch;
  const int64_t stride = tile.prefetch_stride;
  const int64_t steps = tile.steps;
  for (int64_t step = 0; step < steps; ++step) {
    _mm_prefetch(prefetch, _MM_HINT_T1);
    _mm_prefetch(prefetch + 64, _MM_HINT_T1);
    prefetch += stride;
    if constexpr (kInPlace) {
      Product::template step<kRows>(sums, weights, [&](int r) { return rows[r] + 4 * step; });
    } else {
      Product::template step<kRows>(sums, weights, [&](int r) { return x + 4 * r; });
      x += 4 * kRows;
    }
    weights += kStepBytes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r].store(tile.sums + r * kTileLanes);
}

template <class Product, int kRows = 1>
constexpr void add_tiles(TileFamily& family) {
  if constexpr (kRows <= Product::kRowsMax) {
    family.packed[kRows - 1] = multiply_tile<Product, kRows, false>;
    if constexpr (kRows <= Product::kInPlaceRowsMax) family.in_place[kRows - 1] = multiply_tile<Product, kRows, true>;
    add_tiles<Product, kRows + 1>(family);
  }
}

template <class Product>
constexpr TileFamily tile_family() {
  TileFamily family{};
  add_tiles<Product>(family);
  return family;
}

/// e^x within one unit in the last place: x = n ln 2 + r, a polynomial in r, and the exponent moved by n.
template <class Vec>
KEYE_INLINE typename Vec::F exp(typename Vec::F x) {
  using F = typename Vec::F;
  x = Vec::min(Vec::set(104.0F), Vec::max(Vec::set(-104.0F), x));  // beyond: infinity and zero; the order keeps NaN
  const F n = Vec::round(Vec::mul(x, Vec::set(1.44269504F)));
  F r = Vec::fma(n, Vec::set(-0.693359375F), x);
  r = Vec::fma(n, Vec::set(2.12194440e-4F), r);
  F p = Vec::set(0.00139012991F);
  p = Vec::fma(p, r, Vec::set(0.00836320035F));
  p = Vec::fma(p, r, Vec::set(0.0416668542F));
  p = Vec::fma(p, r, Vec::set(0.166665763F));
  p = Vec::fma(p, r, Vec::set(0.5F));
  p = Vec::fma(p, r, Vec::set(1.0F));
  p = Vec::fma(p, r, Vec::set(1.0F));
  return Vec::scale(p, n);
}

/// z / (1 + e^-y)
template <class Vec>
KEYE_INLINE typename Vec::F times_sigmoid(typename Vec::F z, typename Vec::F y) {
  return Vec::div(z, Vec::add(Vec::set(1.0F), exp<Vec>(Vec::sub(Vec::set(0.0F), y))));
}

/// 0.5 (1 + tanh(u)) is the sigmoid of 2 u.
template <class Vec>
KEYE_INLINE typename Vec::F gelu_tanh(typename Vec::F z) {
  const typename Vec::F cube = Vec::mul(Vec::mul(z, z), z);
  const typename Vec::F u = Vec::fma(cube, Vec::set(0.044715F), z);
  return times_sigmoid<Vec>(z, Vec::mul(Vec::set(1.5957691216F), u));
}

/// With a = |z|: a Phi(-a) = a/2 erfc(a / sqrt(2)) is what z > 0 lacks of z, and z < 0 has of zero.
/// erfc(b) = e^(-b^2) t P(t), t = 1 / (1 + b / 2), P fitted for b in [0, 10] to 2e-8.
template <class Vec>
KEYE_INLINE typename Vec::F gelu_erf(typename Vec::F z) {
  using F = typename Vec::F;
  const F a = Vec::min(Vec::set(20.0F), Vec::abs(z));
  const F t = Vec::div(Vec::set(1.0F), Vec::fma(a, Vec::set(0.353553391F), Vec::set(1.0F)));
  F p = Vec::set(0.0122849038F);
  p = Vec::fma(p, t, Vec::set(-0.123259872F));
  p = Vec::fma(p, t, Vec::set(0.428939611F));
  p = Vec::fma(p, t, Vec::set(-0.670036077F));
  p = Vec::fma(p, t, Vec::set(0.421284497F));
  p = Vec::fma(p, t, Vec::set(-0.0983225182F));
  p = Vec::fma(p, t, Vec::set(0.225543335F));
  p = Vec::fma(p, t, Vec::set(0.238644555F));
  p = Vec::fma(p, t, Vec::set(0.28285706F));
  p = Vec::fma(p, t, Vec::set(0.282064497F));
  const F square = Vec::mul(a, a);
  const F rounding = Vec::fma(a, a, Vec::sub(Vec::set(0.0F), square));  // what the square lost, times e^(-b^2)'s slope
  F e = exp<Vec>(Vec::mul(Vec::set(-0.5F), square));
  e = Vec::fma(Vec::mul(Vec::set(-0.5F), rounding), e, e);
  const F tail = Vec::mul(Vec::mul(Vec::set(0.5F), a), Vec::mul(Vec::mul(p, t), e));
  return Vec::if_negative(z, Vec::sub(Vec::set(0.0F), tail), Vec::sub(z, tail));
}

template <class Vec, Activation kActivation>
void finish_tile(const TileFinish& f) {
  using F = typename Vec::F;
  const float* sums = f.sums;
  auto* out = static_cast<char*>(f.out);
  const int64_t out_bytes = f.out_stride * (f.out_bf16 ? 2 : 4);
  for (int row = 0; row < f.rows; ++row, sums += kTileLanes, out += out_bytes) {
    for (int column = 0; column < f.columns; column += Vec::kLanes) {
      const int count = f.columns - column < Vec::kLanes ? f.columns - column : Vec::kLanes;
      F z = Vec::load(sums + column, Vec::kLanes);
      if (f.bias != nullptr) z = Vec::add(z, Vec::load(f.bias + column, count));
      if constexpr (kActivation == Activation::silu_mul) {
        F up = Vec::load(sums + kTileLanes / 2 + column, Vec::kLanes);
        if (f.bias_up != nullptr) up = Vec::add(up, Vec::load(f.bias_up + column, count));
        z = Vec::mul(times_sigmoid<Vec>(z, z), up);
      } else if constexpr (kActivation == Activation::gelu_tanh) {
        z = gelu_tanh<Vec>(z);
      } else if constexpr (kActivation == Activation::gelu_erf) {
        z = gelu_erf<Vec>(z);
      }
      if (f.out_bf16) {
        Vec::store_bf16(reinterpret_cast<uint16_t*>(out) + column, z, count);
        continue;
      }
      float* place = reinterpret_cast<float*>(out) + column;
      if (f.accumulate) z = Vec::add(Vec::load(place, count), z);
      Vec::store(place, z, count);
    }
  }
}

template <class Vec>
void finish(const TileFinish& f) {
  switch (f.activation) {
    case Activation::none:
      return finish_tile<Vec, Activation::none>(f);
    case Activation::silu_mul:
      return finish_tile<Vec, Activation::silu_mul>(f);
    case Activation::gelu_tanh:
      return finish_tile<Vec, Activation::gelu_tanh>(f);
    case Activation::gelu_erf:
      return finish_tile<Vec, Activation::gelu_erf>(f);
  }
}

/// Packs steps [begin, end) of every row, one row after another.
KEYE_INLINE void pack_steps(const TilePack& p, int64_t begin, int64_t end) {
  auto* out = static_cast<char*>(p.out);
  for (int64_t first = begin; first < end; first += 16) {  // a line of every row, into memory that stays close
    const int64_t last = first + 16 < end ? first + 16 : end;
    for (int row = 0; row < p.rows; ++row) {
      const auto* in = static_cast<const char*>(p.x_rows[row]);
      for (int64_t step = first; step < last; ++step) {
        __builtin_memcpy(out + (step * p.rows + row) * 4, in + step * 4, 4);
      }
    }
  }
}

/// Packs the last step, if it is only two bytes of every row.
KEYE_INLINE void pack_half_step(const TilePack& p) {
  if (p.row_bytes % 4 == 0) return;
  const int64_t step = p.row_bytes / 4;
  for (int row = 0; row < p.rows; ++row) {
    auto* out = static_cast<char*>(p.out) + (step * p.rows + row) * 4;
    __builtin_memcpy(out, static_cast<const char*>(p.x_rows[row]) + step * 4, 2);
    __builtin_memset(out + 2, 0, 2);
  }
}

/// Enough independent sums to fill two multiply-adders six cycles deep, and few enough for sixteen registers.
template <class Spin>
double spin(int64_t rounds) {
  constexpr int kSums = 12;
  typename Spin::V sums[kSums];
  typename Spin::V a = Spin::zero();
  typename Spin::V b = Spin::zero();
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) {
    sums[i] = Spin::zero();
    asm volatile("" : "+x"(sums[i]));  // or the compiler keeps one sum for all
  }
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = Spin::multiply_add(sums[i], a, b);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"x"(sums[i]));
  return static_cast<double>(rounds) * kSums * Spin::kFlops;
}

template <class Vec, int kStreams>
uint64_t read_streams(const char* data, size_t bytes, size_t prefetch) {
  typename Vec::I sums[kStreams][2];
  for (auto& sum : sums) sum[0] = sum[1] = Vec::zero();
  const size_t part = bytes / kStreams;
  for (size_t i = 0; i < part; i += 128) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
      const char* place = data + static_cast<size_t>(s) * part + i;
      if (prefetch != 0) {
        _mm_prefetch(place + prefetch, _MM_HINT_T1);
        _mm_prefetch(place + prefetch + 64, _MM_HINT_T1);
      }
#pragma GCC unroll 4
      for (size_t j = 0; j < 128; j += 2 * sizeof(typename Vec::I)) {
        sums[s][0] = Vec::combine(sums[s][0], place + j);
        sums[s][1] = Vec::combine(sums[s][1], place + j + sizeof(typename Vec::I));
      }
    }
  }
  typename Vec::I all = Vec::zero();
  for (auto& sum : sums) all = Vec::combine(Vec::combine(all, &sum[0]), &sum[1]);
  uint64_t words[sizeof(typename Vec::I) / 8];
  __builtin_memcpy(words, &all, sizeof words);
  uint64_t total = 0;
  for (const uint64_t word : words) total ^= word;
  return total;
}

template <class Vec>
uint64_t read(const void* data, size_t bytes, int streams, size_t prefetch) {
  const auto* start = static_cast<const char*>(data);
  switch (streams) {
    case 1:
      return read_streams<Vec, 1>(start, bytes, prefetch);
    case 2:
      return read_streams<Vec, 2>(start, bytes, prefetch);
    default:
      return read_streams<Vec, 4>(start, bytes, prefetch);
  }
}

}  // namespace
}  // namespace keye::ops
