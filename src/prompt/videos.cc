#include "prompt/videos.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "media/resize.h"
#include "prompt/frame_types.h"
#include "prompt/pictures.h"

namespace keye::prompt {
namespace {

/// Frames at their own size that are kept between telling them apart and resizing them.
constexpr size_t kKeptBytesMax = size_t{256} << 20;
/// Frames handed to whoever waits for them, at a time.
constexpr size_t kReadyFrames = 8;

}  // namespace

int64_t PreparedVideo::tokens() const {
  return std::accumulate(frames.begin(), frames.end(), int64_t{0},
                         [](int64_t sum, const VisionItem& frame) { return sum + frame.tokens; });
}

Result<void> check_tokens(size_t frames, int64_t needed, int64_t left) {
  if (needed <= left) return {};
  return make_error(ErrorCode::too_large, "video",
                    "its {} frames need {} tokens, and {} are left: lower fps, max_frames, max_pixels or "
                    "video_total_pixels",
                    frames, needed, left);
}

VideoRules VideoProcessor::rules_of(VideoPolicy policy, const ImageProcessorConfig& config) {
  VideoRules rules{.policy = policy, .limits = frame_limits(policy), .factor = config.factor()};
  const int64_t area = int64_t{config.factor()} * config.factor();
  const auto whole = [&](std::optional<int64_t> pixels, int64_t otherwise) {
    return pixels ? std::max<int64_t>(1, *pixels / area) * area : otherwise;
  };
  rules.limits.min_pixels = whole(config.video_min_pixels, rules.limits.min_pixels);
  rules.limits.max_pixels = whole(config.video_max_pixels, rules.limits.max_pixels);
  rules.limits.total_pixels = whole(config.video_total_pixels, rules.limits.total_pixels);
  return rules;
}

VideoFacts VideoProcessor::facts_of(const media::VideoInfo& info, const VideoKwargs& kwargs, bool is_list) const {
  if (is_list) return {.frames = info.frames, .fps = kwargs.fps.value_or(0), .is_list = true};
  // Each generation has its own decoder, and that its own idea of a clip's rate.
  const bool as_stated = rules_.policy == VideoPolicy::slow_fast && info.declared_fps > 0;
  return {.frames = info.frames, .fps = as_stated ? info.declared_fps : info.fps, .is_list = false};
}

/// One video on its way.
class VideoProcessor::Work {
 public:
  Work(const VideoProcessor& processor, media::FrameSource& source, const VideoKwargs& kwargs, const VideoWatch& watch)
      : images_(processor.images_), rules_(processor.rules_), source_(source), kwargs_(kwargs), watch_(watch) {}

  Result<PreparedVideo> run(const VideoFacts& facts);

 private:
  PixelSize source_size() const { return {source_.info().height, source_.info().width}; }
  int64_t count() const { return static_cast<int64_t>(video_.choice.indices.size()); }
  Result<void> choose_sizes();
  Result<void> tell_apart();
  Result<void> take(size_t place, const media::Image& frame);
  void tell(bool is_last);

  const ImageProcessor& images_;
  const VideoRules& rules_;
  media::FrameSource& source_;
  const VideoKwargs& kwargs_;
  const VideoWatch& watch_;
  PreparedVideo video_;
  std::vector<media::Image> kept_;  // the first frames
  size_t told_ = 0;                 // frames of which `ready` was told
};

Result<PreparedVideo> VideoProcessor::Work::run(const VideoFacts& facts) {
  KEYE_TRY(video_.choice, choose_frames(rules_, kwargs_, facts));
  video_.marks.resize(video_.choice.indices.size());
  for (size_t i = 0; i < video_.choice.timestamps.size(); ++i) {
    video_.marks[i].timestamp = timestamp_text(video_.choice.timestamps[i]);
  }
  if (rules_.policy == VideoPolicy::slow_fast) KEYE_TRY_VOID(tell_apart());
  KEYE_TRY_VOID(choose_sizes());
  video_.frames.reserve(video_.marks.size());
  for (size_t i = 0; i < kept_.size(); ++i) {
    KEYE_TRY_VOID(take(i, kept_[i]));
    kept_[i] = {};
  }
  const auto rest = std::span(video_.choice.indices).subspan(kept_.size());
  if (!rest.empty()) {
    const size_t before = kept_.size();
    KEYE_TRY_VOID(source_.read(
        rest, [&](size_t place, media::Image&& frame) { return take(before + place, frame); }, watch_.stop));
  }
  KEYE_CHECK(video_.frames.size() == video_.marks.size(), "{} of {} frames", video_.frames.size(), video_.marks.size());
  tell(true);
  return std::move(video_);
}

/// slow_fast: frames must have been seen before it is known how large they will be.
Result<void> VideoProcessor::Work::tell_apart() {
  KEYE_TRY(const PixelSize small, comparison_size(rules_, source_size()));
  FrameClassifier classifier(kwargs_.min_frame_similarity.value_or(kMinFrameSimilarity));
  size_t kept_bytes = 0;
  return source_.read(
      video_.choice.indices,
      [&](size_t place, media::Image&& frame) -> Result<void> {
        video_.marks[place].is_fast = classifier.is_fast(
            media::resize_frame(frame, static_cast<int>(small.height), static_cast<int>(small.width)));
        if (watch_.progress && (place + 1) % kReadyFrames == 0)
          watch_.progress(static_cast<int64_t>(place) + 1, count());
        kept_bytes += frame.rgb.size();
        if (kept_bytes <= kKeptBytesMax && kept_.size() == place) kept_.push_back(std::move(frame));
        return {};
      },
      watch_.stop);
}

Result<void> VideoProcessor::Work::choose_sizes() {
  const int64_t fast =
      std::count_if(video_.marks.begin(), video_.marks.end(), [](const FrameMark& mark) { return mark.is_fast; });
  const FrameCounts counts{.slow = count() - fast, .fast = fast};
  KEYE_TRY(video_.sizes, frame_sizes(rules_, kwargs_, video_.choice.total_pixels, counts, source_size()));
  const int64_t area = int64_t{rules_.factor} * rules_.factor;
  const auto tokens = [&](const PixelSize& size) { return size.height * size.width / area; };
  const int64_t needed = counts.slow * tokens(video_.sizes.slow) + counts.fast * tokens(video_.sizes.fast);
  for (const PixelSize& size : {video_.sizes.slow, video_.sizes.fast}) {
    if (size.height * size.width <= ImageProcessor::kPixelsMax) continue;
    return make_error(ErrorCode::too_large, "video",
                      "its frames would be resized to {} x {} pixels, over the limit of {}", size.width, size.height,
                      ImageProcessor::kPixelsMax);
  }
  return check_tokens(video_.choice.indices.size(), needed, watch_.tokens_max);
}

Result<void> VideoProcessor::Work::take(size_t place, const media::Image& frame) {
  KEYE_CHECK(place == video_.frames.size(), "frame {} after {} frames", place, video_.frames.size());
  if (watch_.stop.stop_requested()) return Error{ErrorCode::cancelled, "stopped on request", ""};
  const PixelSize& size = video_.marks[place].is_fast ? video_.sizes.fast : video_.sizes.slow;
  video_.frames.push_back(
      vision_item(media::resize_frame(frame, static_cast<int>(size.height), static_cast<int>(size.width)), images_));
  tell(false);
  return {};
}

void VideoProcessor::Work::tell(bool is_last) {
  const size_t done = video_.frames.size();
  if (done == told_ || (!is_last && done - told_ < kReadyFrames)) return;
  if (watch_.ready) watch_.ready(std::span(video_.frames).subspan(told_));
  if (watch_.progress) watch_.progress(static_cast<int64_t>(done), count());
  told_ = done;
}

Result<PreparedVideo> VideoProcessor::prepare(media::FrameSource& source, const VideoKwargs& kwargs, bool is_list,
                                              const VideoWatch& watch) const {
  if (source.info().frames < 1) return make_error(ErrorCode::invalid_argument, "video", "it has no frames");
  return Work(*this, source, kwargs, watch).run(facts_of(source.info(), kwargs, is_list));
}

}  // namespace keye::prompt
