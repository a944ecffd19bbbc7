// Which TIFF pixel layouts are read, and how a row of each becomes RGB.
#pragma once

#include <vector>

#include "base/result.h"
#include "media/pixels.h"

namespace keye::media {

/// The tags that say what a pixel is, as the first directory has them.
struct TiffTags {
  int photometric = 0;
  int compression = 1;
  int planar = 1;         // 1: pixel by pixel, 2: each channel in a plane of its own
  int fill_order = 1;     // 2: the lowest bit comes first
  int bits = 1;           // per sample
  int samples = 1;        // per pixel
  int sample_format = 1;  // 1 unsigned, 2 signed, 3 floating
  bool big_endian = false;
  std::vector<int> extra;  // what the samples beyond the colours are: 0 anything, 1 premultiplied alpha, 2 alpha
};

enum class TiffColor : uint8_t {
  gray,       // 1, 2, 4 or 8 bits, spread over 0..255
  wide_gray,  // 12, 16 or 32 bits, saturating at 0 and 255
  palette,
  rgb,
  premultiplied,  // RGB times alpha
  cmyk,
  ycbcr,     // 8 bits, not subsampled, converted here
  as_rgba,   // libtiff's own conversion to RGBA: subsampled YCbCr
  jpeg_rgb,  // YCbCr inside JPEG: libjpeg's own conversion to RGB
};

struct TiffLayout {
  TiffColor color = TiffColor::gray;
  int bits = 8;
  int samples = 1;  // in a row of the file: 1 where planes are separate
  int planes = 1;   // that are read, 1 where they are not separate
  int sample_format = 1;
  bool inverted = false;  // white is zero
};

/// PIL's table of what it opens, by rule. Errors: unsupported, saying which tags are outside it.
Result<TiffLayout> tiff_layout(const TiffTags& tags);

/// Converts `width` pixels of one row, in the file's sample order and the machine's byte order.
void tiff_row_to_rgb(const TiffLayout& layout, const Palette& palette, const uint8_t* in, uint8_t* out, int width);

}  // namespace keye::media
