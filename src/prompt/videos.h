// The frames of a video as the vision encoder takes them.
#pragma once

#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "media/frame_source.h"
#include "prompt/image_processor.h"
#include "prompt/prompt.h"
#include "prompt/video_sampler.h"

namespace keye::prompt {

/// What the prompt says before a frame's tokens, and around them.
struct FrameMark {
  std::string timestamp;  // seconds with one digit; empty: there is none
  bool is_fast = false;
};

struct PreparedVideo {
  std::vector<VisionItem> frames;  // their places in the prompt are not set
  std::vector<FrameMark> marks;    // one for each
  FrameChoice choice;
  FrameSizes sizes;

  int64_t tokens() const;
};

/// Who watches a video being prepared.
struct VideoWatch {
  std::stop_token stop;
  int64_t tokens_max = std::numeric_limits<int64_t>::max();  // that the video may need
  /// Frames done, and to be done; slow_fast: twice, as they are told apart first.
  std::function<void(int64_t done, int64_t total)> progress;
  /// Frames that are ready for the vision encoder, some at a time, in order, each once.
  std::function<void(std::span<const VisionItem> frames)> ready;
};

/// Errors: too_large (more tokens are needed than are left), saying what to lower.
Result<void> check_tokens(size_t frames, int64_t needed, int64_t left);

class VideoProcessor {
 public:
  /// Must not outlive `images`.
  VideoProcessor(const ImageProcessor& images, const VideoRules& rules) : images_(images), rules_(rules) {}
  /// The policy's limits, or what the checkpoint's preprocessor_config says instead.
  static VideoRules rules_of(VideoPolicy policy, const ImageProcessorConfig& config);

  const VideoRules& rules() const { return rules_; }
  /// What of the source decides which of its frames are seen. `is_list`: of pictures.
  VideoFacts facts_of(const media::VideoInfo& info, const VideoKwargs& kwargs, bool is_list) const;

  /// Chooses frames, reads them, tells slow from fast, and resizes them. Besides the result, memory holds a fixed
  /// number of bytes of frames: a slow_fast clip with more is read twice. Errors: invalid_argument, too_large (more
  /// tokens than may be), cancelled, those of the source.
  Result<PreparedVideo> prepare(media::FrameSource& source, const VideoKwargs& kwargs, bool is_list,
                                const VideoWatch& watch) const;

 private:
  class Work;

  const ImageProcessor& images_;
  VideoRules rules_;
};

}  // namespace keye::prompt
