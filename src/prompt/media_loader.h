// The pictures and videos of a conversation: found in its messages, fetched, decoded and resized.
#pragma once

#include <functional>
#include <limits>
#include <span>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "media/fetch_policy.h"
#include "media/image.h"
#include "media/video.h"
#include "prompt/pictures.h"
#include "prompt/video_cache.h"
#include "prompt/video_parts.h"
#include "prompt/videos.h"

namespace keye::prompt {

/// What may be fetched for a prompt, what it may cost, and who watches.
struct MediaAccess {
  media::FetchPolicy policy;
  media::MediaLimits limits;
  int pictures_max = 256;                                    // of one prompt
  int videos_max = 16;                                       // of one prompt
  int list_frames_max = 4096;                                // of a video that is given as a list of pictures
  int64_t tokens_max = std::numeric_limits<int64_t>::max();  // that they may need together
  media::VideoDecoder* decoder = nullptr;                    // of clips; without one, videos are lists of pictures
  int64_t clip_bytes_max = int64_t{4} << 30;
  bool adaptive_budget = false;       // VideoRules::adaptive
  VideoCache* video_cache = nullptr;  // of videos that were prepared before; null: there is none
  std::string cache_salt;             // only prompts with the same one share videos
  std::stop_token stop;
  /// Part ("video") and progress of what takes long.
  std::function<void(std::string_view part, int64_t done, int64_t total)> progress;
  /// Frames of videos that the vision encoder may begin with.
  std::function<void(std::span<const VisionItem> frames)> ready;
};

using MediaReference = std::variant<PictureReference, VideoReference>;

/// The pictures and videos of a conversation, in the order of their parts. Errors: invalid_argument, unsupported
/// (audio, options that are not known), `where` naming the part.
Result<std::vector<MediaReference>> find_media(const text::Value& messages);

/// What stands for one picture or video in a prompt.
struct MediaBlock {
  bool is_video = false;
  std::vector<VisionItem> items;  // the picture, or the frames; their places in the prompt are not set
  std::vector<FrameMark> marks;   // of the frames
};

/// How a model's media are prepared. `videos` is null where it takes none.
struct MediaProcessors {
  const ImageProcessor& images;
  const VideoProcessor* videos = nullptr;
};

/// A video that can be read.
struct OpenVideo {
  std::unique_ptr<media::FrameSource> source;
  bool is_list = false;
};
/// Fetches it, and opens the clip or decodes the first picture of the list. Errors: invalid_argument, unsupported,
/// too_large, those of fetching and decoding.
Result<OpenVideo> open_video(const VideoReference& video, const VideoRules& rules, const MediaAccess& access);

/// All of them in order, or the first error: what went wrong with which part.
Result<std::vector<MediaBlock>> load_media(const std::vector<MediaReference>& references,
                                           const MediaProcessors& processors, const MediaAccess& access);

}  // namespace keye::prompt
