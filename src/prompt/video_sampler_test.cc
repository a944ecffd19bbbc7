// Frames and sizes against the reference's (tests/golden/preprocess/sizes.json).
#include "prompt/video_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"

namespace keye::prompt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

VideoRules rules_of(VideoPolicy policy) { return {.policy = policy, .limits = frame_limits(policy)}; }
const VideoRules kSlowFast = rules_of(VideoPolicy::slow_fast);
const VideoRules kAllSlow = rules_of(VideoPolicy::all_slow);

const VideoRules& rules_named(const Json& name) { return name == "slowfast" ? kSlowFast : kAllSlow; }

Json golden_sizes() { return read_json("tests/golden/preprocess/sizes.json").value(); }

TEST(VideoSampler, FramesAsTheReference) {
  const Json sizes = golden_sizes();
  ASSERT_EQ(sizes["video_sampling"].size(), 24U);
  for (const Json& row : sizes["video_sampling"]) {
    SCOPED_TRACE(row.dump());
    VideoKwargs kwargs{.fps = row["fps"].get<double>()};
    for (const auto& [name, value] : row["options"].items()) {
      ASSERT_TRUE(name == "max_frames" || name == "video_total_pixels") << name;
      (name == "max_frames" ? kwargs.max_frames : kwargs.video_total_pixels) = value.get<int64_t>();
    }
    const VideoRules& rules = rules_named(row["policy"]);
    const VideoFacts facts{.frames = row["total_frames"], .fps = row["video_fps"]};
    const int64_t total = kwargs.video_total_pixels.value_or(rules.limits.total_pixels);
    EXPECT_EQ(sample_count(rules, kwargs, total, facts), row["frames"].get<int64_t>());
    const FrameChoice choice = choose_frames(rules, kwargs, facts).value();
    if (!row["indices"].is_null()) {
      EXPECT_EQ(Json(choice.indices), row["indices"]);
    }
    // Where the source has no frame, there is one.
    EXPECT_EQ(choice.indices.size(), std::max<size_t>(1, row["frames"].get<size_t>()));
  }
}

TEST(VideoSampler, SizesAsTheReference) {
  const Json sizes = golden_sizes();
  ASSERT_EQ(sizes["video_token_budget"].size(), 16U);
  for (const Json& row : sizes["video_token_budget"]) {
    SCOPED_TRACE(row.dump());
    const VideoRules& rules = rules_named(row["policy"]);
    const FrameCounts counts{row["slow"], row["fast"]};
    EXPECT_EQ(tokens_per_frame(rules, {}, row["total_pixels"], counts), row["tokens_per_frame"].get<double>());
    const FrameSizes found = frame_sizes(rules, {}, row["total_pixels"], counts, {row["height"], row["width"]}).value();
    EXPECT_EQ(Json({found.slow.height, found.slow.width}), row["size_hw"]);
    EXPECT_EQ(Json({found.fast.height, found.fast.width}), row.value("fast_size_hw", row["size_hw"]));
  }
}

/// The clips that the serving code's notes work out: 720p and 1080p with the default budget of Keye-VL-2.0.
TEST(VideoSampler, LongerClipsHaveSmallerFrames) {
  const auto plan = [](double seconds, PixelSize source, bool adaptive) {
    VideoRules rules = kAllSlow;
    rules.adaptive = adaptive;
    const FrameChoice choice =
        choose_frames(rules, {}, {.frames = static_cast<int64_t>(seconds * 30), .fps = 30}).value();
    const auto count = static_cast<int64_t>(choice.indices.size());
    const PixelSize size = frame_sizes(rules, {}, choice.total_pixels, {count, 0}, source).value().slow;
    return std::array<int64_t, 4>{count, size.height, size.width, count * size.height * size.width / 784};
  };
  EXPECT_THAT(plan(60, {720, 1280}, false), ElementsAre(120, 336, 588, 30240));
  EXPECT_THAT(plan(600, {720, 1280}, false), ElementsAre(1200, 252, 448, 172800));
  EXPECT_THAT(plan(3600, {1080, 1920}, false), ElementsAre(2880, 168, 280, 172800));
  EXPECT_THAT(plan(60, {720, 1280}, true), ElementsAre(120, 224, 420, 14400));
}

/// Numbers from torch.linspace(0, total - 1, count).round(), where rounding each operation by itself gives others.
TEST(VideoSampler, EvenStepsAsTorchRoundsThem) {
  EXPECT_EQ(sample_indices(71930, 267)[194], 52459);
  EXPECT_EQ(sample_indices(87323, 275)[243], 77443);
  EXPECT_EQ(sample_indices(58958, 250)[229], 54221);
  EXPECT_EQ(sample_indices(70445, 292)[205], 49625);
  EXPECT_THAT(sample_indices(7, 1), ElementsAre(0));
  EXPECT_THAT(sample_indices(1, 3), ElementsAre(0, 0, 0));
}

TEST(VideoSampler, TimestampsAsPythonWritesThem) {
  const FrameChoice clip = choose_frames(kAllSlow, {.fps = 4.0}, {.frames = 4, .fps = 4}).value();
  std::vector<std::string> texts;
  for (const float seconds : clip.timestamps) texts.push_back(timestamp_text(seconds));
  EXPECT_THAT(texts, ElementsAre("0.0", "0.2", "0.5", "0.8"));  // 0.25 and 0.75 are ties
  EXPECT_EQ(timestamp_text(3599.95F), "3599.9");                // 3599.94995...
  EXPECT_THAT(choose_frames(kAllSlow, {}, {.frames = 5, .fps = 0}).value().timestamps, ElementsAre());
}

TEST(VideoSampler, PartsOfAClipKeepTheirTimes) {
  const VideoFacts facts{.frames = 100, .fps = 10};
  const FrameChoice part = choose_frames(kAllSlow, {.fps = 1.0, .video_start = 2.0, .video_end = 5.0}, facts).value();
  EXPECT_THAT(part.indices, ElementsAre(20, 35, 50));
  EXPECT_THAT(part.timestamps, ElementsAre(2.0F, 3.5F, 5.0F));
  const auto none = choose_frames(kAllSlow, {.video_start = 11.0}, facts);
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().where, "video_start");
  EXPECT_THAT(none.error().message, HasSubstr("100 frames at 10"));
}

TEST(VideoSampler, NumbersOfFrames) {
  const VideoFacts facts{.frames = 100, .fps = 10};
  const auto count = [&](const VideoRules& rules, const VideoKwargs& kwargs) {
    return choose_frames(rules, kwargs, facts).value().indices.size();
  };
  for (const VideoRules& rules : {kSlowFast, kAllSlow}) {
    EXPECT_EQ(count(rules, {.nframes = 7}), 7U);
    EXPECT_EQ(count(rules, {.nframes = 700}), 100U);
    EXPECT_EQ(count(rules, {.fps = 0.5, .min_frames = 8}), 8U);
    EXPECT_EQ(count(rules, {.max_frames = 3}), 3U);
    EXPECT_EQ(count(rules, {.fps = 50.0}), 100U);
  }
}

TEST(VideoSampler, AbsurdNumbersAreRefusedByName) {
  const auto refused = [](const VideoKwargs& kwargs) {
    const auto choice = choose_frames(kAllSlow, kwargs, {.frames = 100, .fps = 10});
    return choice ? "" : choice.error().where;
  };
  EXPECT_EQ(refused({.fps = 0.0}), "fps");
  EXPECT_EQ(refused({.fps = 1e9}), "fps");
  EXPECT_EQ(refused({.nframes = 0}), "nframes");
  EXPECT_EQ(refused({.fps = 1.0, .nframes = 5}), "nframes");
  EXPECT_EQ(refused({.nframes = 5, .max_frames = 6}), "nframes");
  EXPECT_EQ(refused({.min_frames = 6, .max_frames = 5}), "min_frames");
  EXPECT_EQ(refused({.max_frames = -1}), "max_frames");
  EXPECT_EQ(refused({.min_pixels = 0}), "min_pixels");
  EXPECT_EQ(refused({.min_pixels = 200'000, .max_pixels = 100'000}), "min_pixels");
  EXPECT_EQ(refused({.max_pixels = int64_t{1} << 40}), "max_pixels");
  EXPECT_EQ(refused({.video_total_pixels = 0}), "video_total_pixels");
  EXPECT_EQ(refused({.factor = 0}), "factor");
  EXPECT_EQ(refused({.min_frame_similarity = 1.5}), "min_frame_similarity");
  EXPECT_EQ(refused({.video_start = -1.0}), "video_start");
  EXPECT_EQ(refused({.video_start = 5.0, .video_end = 4.0}), "video_start");
  EXPECT_EQ(refused({}), "");
  EXPECT_EQ(frame_sizes(kAllSlow, {.factor = 30}, 1 << 20, {1, 0}, {100, 100}).error().where, "factor");
}

TEST(VideoSampler, LargerFactors) {
  const PixelSize size = frame_sizes(kAllSlow, {.factor = 56}, 144'506'880, {10, 0}, {360, 640}).value().slow;
  EXPECT_EQ(size.height % 56, 0);
  EXPECT_EQ(size.width % 56, 0);
  EXPECT_LE(size.height * size.width, 200'704);
}

}  // namespace
}  // namespace keye::prompt
