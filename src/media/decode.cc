#include "media/decode.h"

#include <new>

#include "base/check.h"
#include "media/codecs.h"
#include "media/sniff.h"

namespace keye::media {
namespace {

Result<Image> decode(ImageFormat format, Bytes bytes, Size size) {
  switch (format) {
    case ImageFormat::jpeg:
      return decode_jpeg(bytes, size);
    case ImageFormat::png:
      return decode_png(bytes, size);
    case ImageFormat::webp:
      return decode_webp(bytes, size);
    case ImageFormat::gif:
      return decode_gif(bytes, size);
    case ImageFormat::bmp:
      return decode_bmp(bytes, size);
    case ImageFormat::tiff:
      return decode_tiff(bytes, size);
  }
  KEYE_CHECK(false, "format {}", static_cast<int>(format));
}

}  // namespace

Result<Image> decode_image(Bytes bytes, const MediaLimits& limits) {
  if (bytes.size() > limits.bytes_max) {
    return make_error(ErrorCode::too_large, "picture", "{} bytes, over the limit of {}", bytes.size(),
                      limits.bytes_max);
  }
  KEYE_TRY(const ImageInfo info, sniff_image(bytes));
  KEYE_TRY_VOID(check_size(info.height, info.width, limits));
  try {
    return decode(info.format, bytes, Size{static_cast<int>(info.height), static_cast<int>(info.width)});
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::too_large, "picture", "no memory for {} x {} pixels", info.width, info.height);
  }
}

}  // namespace keye::media
