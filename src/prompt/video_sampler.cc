#include "prompt/video_sampler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace keye::prompt {
namespace {

constexpr double kFastShare = 0.3;
constexpr int64_t kTokenPixels = 28 * 28;
constexpr int64_t kComparedPixels = 256 * kTokenPixels;

Error bad(std::string_view name, std::string message) {
  return {ErrorCode::invalid_argument, std::move(message), std::string(name)};
}

int64_t factor_of(const VideoRules& rules, const VideoKwargs& kwargs) { return kwargs.factor.value_or(rules.factor); }

/// The least pixels of a frame: a request can only raise them.
int64_t min_pixels_of(const VideoRules& rules, const VideoKwargs& kwargs) {
  return std::max(kwargs.min_pixels.value_or(0), rules.limits.min_pixels);
}

/// The most frames that the budget allows.
int64_t frames_allowed(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels) {
  if (rules.policy == VideoPolicy::all_slow) return std::max<int64_t>(1, total_pixels / rules.limits.min_pixels);
  const int64_t min_pixels = kwargs.min_pixels.value_or(rules.limits.min_pixels);
  return static_cast<int64_t>(static_cast<double>(total_pixels) / static_cast<double>(min_pixels));
}

/// The frames that video_start and video_end leave: [first, last].
struct Range {
  int64_t first = 0;
  int64_t last = 0;
};

Result<Range> range_of(const VideoKwargs& kwargs, const VideoFacts& facts) {
  Range range{0, facts.frames - 1};
  if (!kwargs.video_start && !kwargs.video_end) return range;
  const char* name = kwargs.video_start ? "video_start" : "video_end";
  if (facts.fps <= 0) return bad(name, "nothing says how many frames a second this video has");
  const auto last = static_cast<double>(range.last);
  // A hair's breadth, so that 0.1 s is frame 3 at 30 a second.
  constexpr double kSlack = 1e-6;
  if (kwargs.video_start)
    range.first = static_cast<int64_t>(std::ceil(std::min(*kwargs.video_start * facts.fps - kSlack, last + 1)));
  if (kwargs.video_end)
    range.last = static_cast<int64_t>(std::floor(std::min(*kwargs.video_end * facts.fps + kSlack, last)));
  if (range.first > range.last) {
    return bad(name,
               fmt::format("no frame is left: the video has {} frames at {:.6g} a second", facts.frames, facts.fps));
  }
  return range;
}

}  // namespace

FrameLimits frame_limits(VideoPolicy policy) {
  if (policy == VideoPolicy::slow_fast) return {48 * kTokenPixels, 768 * kTokenPixels, 65536 * kTokenPixels};
  return {64 * kTokenPixels, 256 * kTokenPixels, 184320 * kTokenPixels};
}

std::string timestamp_text(float seconds) { return fmt::format("{:.1f}", static_cast<double>(seconds)); }

double adaptive_share(double seconds) {
  if (seconds <= 259) return 0.09;
  if (seconds <= 518) return 0.18;
  if (seconds <= 1036) return 0.36;
  return seconds <= 2016 ? 0.7 : 1.0;
}

std::vector<int64_t> sample_indices(int64_t total, int64_t count) {
  KEYE_CHECK(total > 0 && count > 0, "{} of {} frames", count, total);
  std::vector<int64_t> indices(static_cast<size_t>(count));
  const auto end = static_cast<float>(total - 1);
  const float step = count > 1 ? end / static_cast<float>(count - 1) : 0.0F;
  for (int64_t i = 0; i < count; ++i) {
    // From both ends. The second half is rounded once, as torch's compiler fuses the two operations.
    const float at = i < count / 2 || count == 1 ? step * static_cast<float>(i)
                                                 : std::fma(-step, static_cast<float>(count - i - 1), end);
    indices[static_cast<size_t>(i)] = static_cast<int64_t>(std::nearbyint(at));
  }
  return indices;
}

int64_t sample_count(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels,
                     const VideoFacts& facts) {
  const bool all_slow = rules.policy == VideoPolicy::all_slow;
  const int64_t allowed = frames_allowed(rules, kwargs, total_pixels);
  int64_t most = std::min(kwargs.max_frames.value_or(allowed), allowed);
  if (all_slow) most = std::min(most, facts.frames);
  if (kwargs.nframes) return std::min({*kwargs.nframes, most, facts.frames});
  const double rate = facts.fps > 0 ? facts.fps : kVideoFps;
  const double wanted = facts.is_list || facts.fps <= 0 ? rate : std::min(kwargs.fps.value_or(kVideoFps), rate);
  const auto count = static_cast<int64_t>(static_cast<double>(facts.frames) / rate * wanted);
  const int64_t least = kwargs.min_frames.value_or(all_slow ? 2 : 0);
  return std::min({std::max(count, least), most, std::max(count, facts.frames)});
}

double tokens_per_frame(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels, FrameCounts counts) {
  const int64_t area = factor_of(rules, kwargs) * factor_of(rules, kwargs);
  const int64_t min_pixels = min_pixels_of(rules, kwargs);
  const int64_t max_pixels = kwargs.max_pixels.value_or(rules.limits.max_pixels);
  const int64_t min_tokens = min_pixels / area;
  double left = static_cast<double>(min_pixels) / static_cast<double>(area);
  double right = static_cast<double>(max_pixels) / static_cast<double>(area);
  if (rules.policy == VideoPolicy::all_slow) {
    left = static_cast<double>(std::max<int64_t>(min_tokens, 1));
    right = std::max(left, static_cast<double>(max_pixels / area));
  }
  while (left < right) {
    const int64_t middle = static_cast<int64_t>(left + right) / 2;
    const int64_t fast = std::max(static_cast<int64_t>(kFastShare * static_cast<double>(middle)), min_tokens);
    const int64_t estimate = area * (counts.slow * middle + counts.fast * fast);
    if (estimate > total_pixels) {
      right = static_cast<double>(middle);
    } else {
      left = static_cast<double>(middle + 1);
    }
  }
  return left;
}

Result<void> check_kwargs(const VideoKwargs& kwargs) {
  const auto within = [](std::string_view name, const auto& value, auto low, auto high) -> Result<void> {
    if (!value || (*value >= low && *value <= high)) return {};
    return bad(name, fmt::format("expected {} to {}, got {}", low, high, *value));
  };
  constexpr int64_t kPixels = int64_t{1} << 26;
  KEYE_TRY_VOID(within("fps", kwargs.fps, 1e-4, 1e4));
  KEYE_TRY_VOID(within("nframes", kwargs.nframes, int64_t{1}, kVideoFramesMax));
  KEYE_TRY_VOID(within("min_frames", kwargs.min_frames, int64_t{1}, kVideoFramesMax));
  KEYE_TRY_VOID(within("max_frames", kwargs.max_frames, int64_t{1}, kVideoFramesMax));
  KEYE_TRY_VOID(within("min_pixels", kwargs.min_pixels, int64_t{1}, kPixels));
  KEYE_TRY_VOID(within("max_pixels", kwargs.max_pixels, int64_t{1}, kPixels));
  KEYE_TRY_VOID(within("video_total_pixels", kwargs.video_total_pixels, int64_t{1}, int64_t{1} << 40));
  KEYE_TRY_VOID(within("factor", kwargs.factor, 1, 4096));
  KEYE_TRY_VOID(within("min_frame_similarity", kwargs.min_frame_similarity, 0.0, 1.0));
  KEYE_TRY_VOID(within("video_start", kwargs.video_start, 0.0, 1e7));
  KEYE_TRY_VOID(within("video_end", kwargs.video_end, 0.0, 1e7));
  const auto ordered = [](std::string_view low_name, const auto& low, std::string_view name,
                          const auto& high) -> Result<void> {
    if (!low || !high || *low <= *high) return {};
    return bad(low_name, fmt::format("{} is more than {}, {}", *low, name, *high));
  };
  KEYE_TRY_VOID(ordered("min_pixels", kwargs.min_pixels, "max_pixels", kwargs.max_pixels));
  KEYE_TRY_VOID(ordered("min_frames", kwargs.min_frames, "max_frames", kwargs.max_frames));
  KEYE_TRY_VOID(ordered("video_start", kwargs.video_start, "video_end", kwargs.video_end));
  if (kwargs.nframes && (kwargs.min_frames || kwargs.max_frames))
    return bad("nframes", "it comes without min_frames and max_frames");
  return {};
}

Result<FrameChoice> choose_frames(const VideoRules& rules, const VideoKwargs& kwargs, const VideoFacts& facts) {
  KEYE_CHECK(facts.frames > 0, "a video without frames");
  KEYE_TRY_VOID(check_kwargs(kwargs));
  if (kwargs.nframes && kwargs.fps && !facts.is_list) return bad("nframes", "give fps or nframes, not both");
  KEYE_TRY(const Range range, range_of(kwargs, facts));
  VideoFacts part = facts;
  part.frames = range.last - range.first + 1;
  FrameChoice choice;
  choice.total_pixels = kwargs.video_total_pixels.value_or(rules.limits.total_pixels);
  if (rules.policy == VideoPolicy::all_slow && rules.adaptive && !facts.is_list && facts.fps > 0) {
    const double share = adaptive_share(static_cast<double>(part.frames) / facts.fps);
    choice.total_pixels = static_cast<int64_t>(static_cast<double>(choice.total_pixels) * share);
  }
  const int64_t count = std::clamp<int64_t>(sample_count(rules, kwargs, choice.total_pixels, part), 1, kVideoFramesMax);
  choice.indices = sample_indices(part.frames, count);
  for (int64_t& index : choice.indices) index += range.first;
  if (facts.fps <= 0) return choice;
  choice.timestamps.reserve(choice.indices.size());
  for (const int64_t index : choice.indices) {
    // A list's in f64 by the time between two frames, a clip's in f32 by its rate.
    choice.timestamps.push_back(facts.is_list ? static_cast<float>(1 / facts.fps * static_cast<double>(index))
                                              : static_cast<float>(index) / static_cast<float>(facts.fps));
  }
  return choice;
}

Result<PixelSize> comparison_size(const VideoRules& rules, PixelSize source) {
  return server_resize(source.height, source.width, rules.factor, static_cast<double>(rules.limits.min_pixels),
                       static_cast<double>(kComparedPixels));
}

Result<FrameSizes> frame_sizes(const VideoRules& rules, const VideoKwargs& kwargs, int64_t total_pixels,
                               FrameCounts counts, PixelSize source) {
  const auto factor = static_cast<int>(factor_of(rules, kwargs));
  if (factor % rules.factor != 0)
    return bad("factor", fmt::format("expected a multiple of {}, got {}", rules.factor, factor));
  const int64_t area = int64_t{factor} * factor;
  const auto min_pixels = static_cast<double>(min_pixels_of(rules, kwargs));
  const double tokens = tokens_per_frame(rules, kwargs, total_pixels, counts);
  FrameSizes sizes;
  KEYE_TRY(sizes.slow,
           server_resize(source.height, source.width, factor, min_pixels, tokens * static_cast<double>(area)));
  sizes.fast = sizes.slow;
  if (rules.policy == VideoPolicy::all_slow) return sizes;
  const double slow_tokens = static_cast<double>(sizes.slow.height * sizes.slow.width) / static_cast<double>(area);
  const int64_t fast_pixels = std::max(static_cast<int64_t>(slow_tokens * kFastShare) * area, rules.limits.min_pixels);
  KEYE_TRY(sizes.fast,
           server_resize(source.height, source.width, factor, min_pixels, static_cast<double>(fast_pixels)));
  return sizes;
}

}  // namespace keye::prompt
