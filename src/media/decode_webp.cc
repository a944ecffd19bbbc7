// WebP through libwebp; animations through its demuxer, composed as its animation decoder does.
#include <cstring>
#include <memory>

#include <webp/decode.h>
#include <webp/demux.h>

#include "media/codecs.h"

namespace keye::media {
namespace {

Error corrupt(const char* what) { return make_error(ErrorCode::corrupt_data, "WebP", "{}", what); }

Result<Image> decode_still(const uint8_t* data, size_t count, Size size) {
  Image image(size.height, size.width);
  if (WebPDecodeRGBInto(data, count, image.rgb.data(), image.rgb.size(), size.width * 3) == nullptr) {
    return corrupt("the picture cannot be decoded: the file is truncated or damaged");
  }
  return image;
}

/// The first frame on its canvas, which is transparent black at first; then alpha is dropped.
Result<Image> decode_first_frame(const uint8_t* data, size_t count, Size size) {
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options)) return make_error(ErrorCode::internal, "WebP", "libwebp does not start");
  const WebPData file{data, count};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(WebPAnimDecoderNew(&file, &options),
                                                                                   WebPAnimDecoderDelete);
  WebPAnimInfo info;
  if (decoder == nullptr || !WebPAnimDecoderGetInfo(decoder.get(), &info)) {
    return corrupt("the animation cannot be read: the file is truncated or damaged");
  }
  if (info.canvas_height != static_cast<uint32_t>(size.height) ||
      info.canvas_width != static_cast<uint32_t>(size.width)) {
    return corrupt("the canvas is not of the size its header says");
  }
  uint8_t* rgba = nullptr;
  int end_ms = 0;
  if (!WebPAnimDecoderGetNext(decoder.get(), &rgba, &end_ms)) {
    return corrupt("the first frame cannot be decoded: the file is truncated or damaged");
  }
  Image image(size.height, size.width);
  uint8_t* out = image.rgb.data();
  for (size_t i = 0; i < image.rgb.size() / 3; ++i) std::memcpy(out + 3 * i, rgba + 4 * i, 3);
  return image;
}

}  // namespace

Result<Image> decode_webp(Bytes bytes, Size size) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, bytes.size(), &features) != VP8_STATUS_OK) {
    return corrupt("its header cannot be read: the file is truncated or damaged");
  }
  if (features.has_animation) return decode_first_frame(data, bytes.size(), size);
  if (features.height != size.height || features.width != size.width) {
    return corrupt("the picture is not of the size its header says");
  }
  return decode_still(data, bytes.size(), size);
}

}  // namespace keye::media
