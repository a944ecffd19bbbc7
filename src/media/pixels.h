// Rows of other layouts to rows of RGB, by PIL's integer arithmetic.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace keye::media {

/// Up to 256 colours; an index that the file gave no colour is black.
using Palette = std::array<std::array<uint8_t, 3>, 256>;

inline void gray_to_rgb(const uint8_t* in, uint8_t* out, int width) {
  for (int x = 0; x < width; ++x) std::memset(out + 3 * x, in[x], 3);
}

inline void palette_to_rgb(const uint8_t* in, const Palette& palette, uint8_t* out, int width) {
  for (int x = 0; x < width; ++x) std::memcpy(out + 3 * x, palette[in[x]].data(), 3);
}

/// a * b / 255, rounded.
inline int multiply_255(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// One CMYK pixel, 255 being full ink.
inline void cmyk_to_rgb(int c, int m, int y, int k, uint8_t* out) {
  const int light = 255 - k;
  out[0] = static_cast<uint8_t>(std::max(0, light - multiply_255(c, light)));
  out[1] = static_cast<uint8_t>(std::max(0, light - multiply_255(m, light)));
  out[2] = static_cast<uint8_t>(std::max(0, light - multiply_255(y, light)));
}

/// Takes the alpha out of a premultiplied channel.
inline uint8_t unpremultiply(int value, int alpha) {
  return alpha == 0 ? uint8_t{0} : static_cast<uint8_t>(std::min(255, value * 255 / alpha));
}

/// The `index`-th of the `bits`-bit numbers (1, 2, 4 or 8) packed into bytes, the first in the highest bits.
inline uint8_t packed_value(const uint8_t* in, int index, int bits) {
  const int bit = index * bits;
  return static_cast<uint8_t>((in[bit / 8] >> (8 - bits - bit % 8)) & ((1 << bits) - 1));
}

}  // namespace keye::media
