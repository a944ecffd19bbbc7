// A list of pictures, taken as the frames of a video.
#pragma once

#include <string>
#include <vector>

#include "media/frame_source.h"
#include "prompt/smart_resize.h"

namespace keye::prompt {

/// To which size each picture of a list is brought before it counts as a frame.
struct PictureFrameSize {
  int factor = 28;
  double min_pixels = 0;
  double max_pixels = 0;
};

/// Pictures as a clip without a rate. Each is decoded and resized (as pictures are, bicubic) when it is read; all must
/// come to the size of the first.
class PictureFrames final : public media::FrameSource {
 public:
  /// `encoded` has at least one picture. Errors: those of decoding the first.
  static Result<PictureFrames> open(std::vector<std::string> encoded, const PictureFrameSize& size,
                                    const media::MediaLimits& limits);

  const media::VideoInfo& info() const override { return info_; }
  Result<void> read(std::span<const int64_t> indices, const media::TakeFrame& take, std::stop_token stop) override;

 private:
  PictureFrames() = default;
  Result<media::Image> frame(size_t index) const;

  std::vector<std::string> encoded_;
  PictureFrameSize size_;
  media::MediaLimits limits_;
  media::VideoInfo info_;
};

}  // namespace keye::prompt
