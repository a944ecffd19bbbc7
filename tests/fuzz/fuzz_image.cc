// Any bytes as a picture: refused, or decoded to the size that the header gave, within the limits.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "media/decode.h"
#include "media/sniff.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keye::media;
  MediaLimits limits;
  limits.bytes_max = 1 << 20;
  limits.pixels_max = 1 << 16;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto image = decode_image(bytes, limits);
  if (!image) return 0;
  const auto info = sniff_image(bytes);
  KEYE_CHECK(info.has_value());
  const bool same = image->height == info->height && image->width == info->width;
  const bool turned = image->height == info->width && image->width == info->height;
  KEYE_CHECK(same || (turned && info->format == ImageFormat::tiff));
  KEYE_CHECK(info->height * info->width <= limits.pixels_max);
  KEYE_CHECK(image->rgb.size() == static_cast<size_t>(info->height * info->width) * 3);
  return 0;
}
