// Quarter turns and mirroring of RGB pictures, as a clip's display matrix asks for them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace keye::media {

/// Applied in this order: rows and columns swapped, then rows reversed, then columns reversed.
struct Turn {
  bool swap = false;
  bool reverse_rows = false;
  bool reverse_columns = false;

  explicit operator bool() const { return swap || reverse_rows || reverse_columns; }
};

/// `in` has `height` rows of `width` pixels of 3 bytes, `stride` bytes apart; `out` gets the turned picture without
/// gaps.
void turn_rgb(const uint8_t* in, size_t stride, int width, int height, Turn turn, uint8_t* out);

}  // namespace keye::media
