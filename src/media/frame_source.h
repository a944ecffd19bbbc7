// Frames of a clip by number, wherever they come from: an encoded clip (media/video.h) or a list of pictures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "media/image.h"

namespace keye::media {

/// What is known of a clip before its frames are read.
struct VideoInfo {
  /// Of the frames as shown: cropped, rotation applied.
  int width = 0;
  int height = 0;
  /// Frames a second over the whole clip: `frames` / `duration_s`, as torchcodec counts. 0 when not known.
  double fps = 0;
  /// What the container states instead, as decord takes it; 0 when it states nothing.
  double declared_fps = 0;
  /// Those that can be asked for.
  int64_t frames = 0;
  /// From the first frame's start to the last one's end.
  double duration_s = 0;
  /// For people: "mp4, h264".
  std::string format;
};

/// Takes one frame: its place in the indices asked for, and its pixels. An error ends reading, which returns it.
using TakeFrame = std::function<Result<void>(size_t place, Image&& frame)>;

/// Used by one thread at a time. The memory held does not grow with the clip's length beyond a few bytes a frame.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  virtual const VideoInfo& info() const = 0;

  /// Calls `take` with frame indices[0], indices[1], and so on, all of size info().height x info().width. `indices`
  /// ascend, may repeat, and lie below info().frames. May be called again, with any indices.
  /// Errors: take's; cancelled (soon after a stop is requested); those of whoever makes the frames.
  virtual Result<void> read(std::span<const int64_t> indices, const TakeFrame& take, std::stop_token stop) = 0;
};

}  // namespace keye::media
