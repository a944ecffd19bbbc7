// One decoder per format. Each gets the whole file and a size that is within the limits already, returns a picture of
// exactly that size (TIFF: or turned by a quarter), and contains everything that the library behind it may do: its
// errors come back as an Error, nothing is printed.
#pragma once

#include "media/byte_reader.h"
#include "media/image.h"

namespace keye::media {

struct Size {
  int height;
  int width;
};

Result<Image> decode_jpeg(Bytes bytes, Size size);
Result<Image> decode_png(Bytes bytes, Size size);
Result<Image> decode_webp(Bytes bytes, Size size);
Result<Image> decode_gif(Bytes bytes, Size size);
Result<Image> decode_bmp(Bytes bytes, Size size);
Result<Image> decode_tiff(Bytes bytes, Size size);

}  // namespace keye::media
