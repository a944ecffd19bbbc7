// Which frames of a video a model sees, at what size, and what the prompt says of when they were: arithmetic alone.
// Source: the video processors of the published serving code (Keye-VL-1.5, whose similar frames are small;
// Keye-VL-2.0).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "prompt/smart_resize.h"

namespace keye::prompt {

enum class VideoPolicy : uint8_t {
  slow_fast,  // Keye-VL-1.5, 671B: frames that resemble the last slow frame are fast ones, of fewer pixels
  all_slow,   // Keye-VL-2.0: all frames are alike
};

inline constexpr double kVideoFps = 2.0;
/// Frames to which a request's limits of pixels may grow, and a clip that has no rate, are bounded by these.
inline constexpr int64_t kVideoFramesMax = 1'000'000;

/// Pixels of one frame, and of all frames of one video together.
struct FrameLimits {
  int64_t min_pixels = 0;
  int64_t max_pixels = 0;
  int64_t total_pixels = 0;
};

/// A policy's own limits.
FrameLimits frame_limits(VideoPolicy policy);

/// How a model takes videos.
struct VideoRules {
  VideoPolicy policy = VideoPolicy::all_slow;
  FrameLimits limits;     // whole multiples of factor * factor
  int factor = 28;        // sides of a frame are multiples of it: a merged token's side in pixels
  bool adaptive = false;  // all_slow: shorter clips have smaller budgets
};

/// What a request may say about one video; what it leaves out is as the model has it.
struct VideoKwargs {
  std::optional<double> fps{};          // frames seen a second (2); of a list of pictures: its rate (none)
  std::optional<int64_t> nframes{};     // in place of fps: as many, or what the clip and the budget have
  std::optional<int64_t> min_frames{};  // 1; all_slow: 2
  std::optional<int64_t> max_frames{};
  std::optional<int64_t> min_pixels{};          // of a frame
  std::optional<int64_t> max_pixels{};          // of a frame
  std::optional<int64_t> video_total_pixels{};  // of all frames
  std::optional<int> factor{};
  std::optional<double> min_frame_similarity{};  // slow_fast: below it a frame is slow (0.9)
  std::optional<double> video_start{};           // seconds: the part of the clip that counts
  std::optional<double> video_end{};
};

/// What of a video decides which frames are seen.
struct VideoFacts {
  int64_t frames = 0;
  double fps = 0;        // 0: not known; then there are no timestamps
  bool is_list = false;  // of pictures, which all count
};

struct FrameChoice {
  std::vector<int64_t> indices;   // ascending
  std::vector<float> timestamps;  // seconds from the clip's beginning, one for each frame; empty: there are none
  int64_t total_pixels = 0;       // the budget of the video
};

/// Errors: invalid_argument (no frame between video_start and video_end; absurd numbers, named).
Result<FrameChoice> choose_frames(const VideoRules& rules, const VideoKwargs& kwargs, const VideoFacts& facts);

struct FrameSizes {
  PixelSize slow;
  PixelSize fast;  // all_slow: as slow
};
struct FrameCounts {
  int64_t slow = 0;
  int64_t fast = 0;
};

/// The sizes that `counts` frames of `source` pixels are brought to. The search for the tokens of a frame ends at the
/// first number that is over the budget, so that the whole may be over it by a little, as in the source. Errors:
/// invalid_argument (aspect ratio; `factor`).
Result<FrameSizes> frame_sizes(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels,
                               FrameCounts counts, PixelSize source);
/// The size at which frames are compared with each other: slow_fast.
Result<PixelSize> comparison_size(const VideoRules& rules, PixelSize source);

/// Errors: invalid_argument, naming the field that is out of range or at odds with another.
Result<void> check_kwargs(const VideoKwargs& kwargs);

// The parts of the above, for tests.

/// 0, ..., total - 1 in `count` even steps: torch.linspace in f32, rounded to even.
std::vector<int64_t> sample_indices(int64_t total, int64_t count);
/// How many of `total` frames at `fps` are seen; 0 where the source has no rule for so short a clip (slow_fast).
int64_t sample_count(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels, const VideoFacts& facts);
/// The tokens of a (slow) frame.
double tokens_per_frame(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels, FrameCounts counts);
/// The share of the budget that a clip of so many seconds has where the budget is adaptive.
double adaptive_share(double seconds);
/// As a prompt has it: Python's "%.1f".
std::string timestamp_text(float seconds);

}  // namespace keye::prompt
