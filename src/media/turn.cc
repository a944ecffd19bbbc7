#include "media/turn.h"

#include <algorithm>
#include <cstring>

namespace keye::media {

void turn_rgb(const uint8_t* in, size_t stride, int width, int height, Turn turn, uint8_t* out) {
  const int out_width = turn.swap ? height : width;
  const int out_height = turn.swap ? width : height;
  if (!turn.swap && !turn.reverse_columns) {
    for (int y = 0; y < out_height; ++y) {
      const int from = turn.reverse_rows ? height - 1 - y : y;
      std::memcpy(out + static_cast<size_t>(y) * static_cast<size_t>(width) * 3,
                  in + static_cast<size_t>(from) * stride, static_cast<size_t>(width) * 3);
    }
    return;
  }
  constexpr int kBlock = 32;  // pictures taken across their rows stay in the cache
  for (int top = 0; top < out_height; top += kBlock) {
    for (int left = 0; left < out_width; left += kBlock) {
      for (int y = top; y < std::min(top + kBlock, out_height); ++y) {
        const int row = turn.reverse_rows ? out_height - 1 - y : y;
        for (int x = left; x < std::min(left + kBlock, out_width); ++x) {
          const int column = turn.reverse_columns ? out_width - 1 - x : x;
          const size_t from = turn.swap ? static_cast<size_t>(column) * stride + static_cast<size_t>(row) * 3
                                        : static_cast<size_t>(row) * stride + static_cast<size_t>(column) * 3;
          std::memcpy(out + (static_cast<size_t>(y) * static_cast<size_t>(out_width) + static_cast<size_t>(x)) * 3,
                      in + from, 3);
        }
      }
    }
  }
}

}  // namespace keye::media
