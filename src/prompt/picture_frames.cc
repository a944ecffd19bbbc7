#include "prompt/picture_frames.h"

#include "base/check.h"
#include "media/decode.h"
#include "media/resize.h"

namespace keye::prompt {

Result<PictureFrames> PictureFrames::open(std::vector<std::string> encoded, const PictureFrameSize& size,
                                          const media::MediaLimits& limits) {
  KEYE_CHECK(!encoded.empty(), "a list without pictures");
  PictureFrames frames;
  frames.encoded_ = std::move(encoded);
  frames.size_ = size;
  frames.limits_ = limits;
  KEYE_TRY(const media::Image first, frames.frame(0));
  frames.info_ = {.width = first.width,
                  .height = first.height,
                  .fps = 0,
                  .declared_fps = 0,
                  .frames = static_cast<int64_t>(frames.encoded_.size()),
                  .duration_s = 0,
                  .format = "pictures"};
  return frames;
}

Result<media::Image> PictureFrames::frame(size_t index) const {
  const auto decode = [&]() -> Result<media::Image> {
    KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(encoded_[index])), limits_));
    KEYE_TRY(const PixelSize size,
             server_resize(image.height, image.width, size_.factor, size_.min_pixels, size_.max_pixels));
    if (size.height == image.height && size.width == image.width) return image;
    return media::resize(image, static_cast<int>(size.height), static_cast<int>(size.width), media::Resample::bicubic);
  };
  auto image = decode();
  if (image) return image;
  return make_error(image.error().code, fmt::format("frame {}", index), "{}", image.error().to_string());
}

Result<void> PictureFrames::read(std::span<const int64_t> indices, const media::TakeFrame& take, std::stop_token stop) {
  for (size_t place = 0; place < indices.size(); ++place) {
    if (stop.stop_requested()) return Error{ErrorCode::cancelled, "stopped on request", ""};
    KEYE_TRY(media::Image image, frame(static_cast<size_t>(indices[place])));
    if (image.height != info_.height || image.width != info_.width) {
      return make_error(ErrorCode::invalid_argument, fmt::format("frame {}", indices[place]),
                        "it comes to {} x {} pixels, the first to {} x {}: all frames of a video have one shape",
                        image.width, image.height, info_.width, info_.height);
    }
    KEYE_TRY_VOID(take(place, std::move(image)));
  }
  return {};
}

}  // namespace keye::prompt
