// Videos against the reference's: frames, types, sizes and pixels of lists and clips (tests/golden/preprocess).
#include "prompt/videos.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "media/decode.h"
#include "media/resize.h"
#include "media/testing.h"
#include "prompt/frame_types.h"
#include "prompt/picture_frames.h"

namespace keye::prompt {
namespace {

using media::testing::sha256;
using ::testing::HasSubstr;

const Path kGoldens = "tests/golden";

std::string frame_file(int i) { return read_file(kGoldens / fmt::format("frames/clip_{:02d}.png", i)).value(); }

media::Image decoded_frame(int i) {
  const std::string bytes = frame_file(i);
  return media::decode_image(media::testing::bytes_of(bytes), {}).value();
}

/// Decoded frames, as a clip of a certain rate.
class Clip final : public media::FrameSource {
 public:
  Clip(std::vector<media::Image> frames, double fps) : frames_(std::move(frames)) {
    info_ = {.width = frames_[0].width,
             .height = frames_[0].height,
             .fps = fps,
             .declared_fps = fps,
             .frames = static_cast<int64_t>(frames_.size()),
             .duration_s = static_cast<double>(frames_.size()) / fps,
             .format = "memory"};
  }
  const media::VideoInfo& info() const override { return info_; }
  Result<void> read(std::span<const int64_t> indices, const media::TakeFrame& take, std::stop_token) override {
    ++reads;
    for (size_t place = 0; place < indices.size(); ++place) {
      KEYE_TRY_VOID(take(place, media::Image(frames_[static_cast<size_t>(indices[place])])));
    }
    return {};
  }
  int reads = 0;

 private:
  std::vector<media::Image> frames_;
  media::VideoInfo info_;
};

Clip golden_clip(double fps, int frames = 8) {
  std::vector<media::Image> images;
  for (int i = 0; i < frames; ++i) images.push_back(decoded_frame(i));
  return {std::move(images), fps};
}

const ImageProcessor& images() {
  static const ImageProcessor processor{ImageProcessorConfig{}};
  return processor;
}

VideoProcessor processor_of(const Json& policy) {
  return {images(), VideoProcessor::rules_of(policy == "slowfast" ? VideoPolicy::slow_fast : VideoPolicy::all_slow,
                                             images().config())};
}

PreparedVideo prepare_golden(const Json& row) {
  const VideoProcessor processor = processor_of(row["policy"]);
  VideoKwargs kwargs;
  if (row["options"].contains("fps")) kwargs.fps = row["options"]["fps"].get<double>();
  if (row["options"].contains("video_total_pixels")) kwargs.video_total_pixels = row["options"]["video_total_pixels"];
  if (row["decoded"].get<bool>()) {
    Clip clip = golden_clip(row["fps"], row["frames"]);
    return processor.prepare(clip, kwargs, false, {}).value();
  }
  if (!row["fps"].is_null()) kwargs.fps = row["fps"].get<double>();
  std::vector<std::string> files;
  for (int i = 0; i < row["frames"]; ++i) files.push_back(frame_file(i));
  const FrameLimits& limits = processor.rules().limits;
  PictureFrames list = PictureFrames::open(std::move(files),
                                           {.factor = 28,
                                            .min_pixels = static_cast<double>(limits.min_pixels),
                                            .max_pixels = static_cast<double>(limits.max_pixels)},
                                           {})
                           .value();
  return processor.prepare(list, kwargs, true, {}).value();
}

/// No byte of a frame differs from the reference's.
TEST(Videos, AsTheReference) {
  const Json goldens = read_json(kGoldens / "preprocess/videos.json").value();
  ASSERT_EQ(goldens["videos"].size(), 12U);
  for (const Json& row : goldens["videos"]) {
    SCOPED_TRACE(row["name"].get<std::string>());
    const PreparedVideo video = prepare_golden(row);
    EXPECT_EQ(Json(video.choice.indices), row["frame_indices"]);
    Json types = Json::array(), texts = Json::array(), hashes = Json::array(), grids = Json::array();
    Sha256 pixels;
    for (size_t i = 0; i < video.frames.size(); ++i) {
      types.push_back(video.marks[i].is_fast ? 1 : 0);
      texts.push_back(video.marks[i].timestamp);
      hashes.push_back(sha256(*video.frames[i].image));
      grids.push_back({1, video.frames[i].grid.rows, video.frames[i].grid.cols});
      const ImagePatches patches = images().patchify(*video.frames[i].image);
      pixels.add(std::as_bytes(
          std::span(patches.pixel_values.as<float>(), static_cast<size_t>(patches.pixel_values.view().elements()))));
    }
    EXPECT_EQ(types, row["frame_types"]);
    if (row["timestamp_text"].is_null()) {
      for (const FrameMark& mark : video.marks) EXPECT_EQ(mark.timestamp, "");
    } else {
      EXPECT_EQ(texts, row["timestamp_text"]);
    }
    EXPECT_EQ(hashes, row["frames_sha256"]);
    EXPECT_EQ(grids, row["grid_thw_per_frame"]);
    EXPECT_EQ(pixels.finish().hex(), row["pixel_values_sha256_f32"]);
    EXPECT_EQ(Json({video.sizes.slow.height, video.sizes.slow.width}), row["size_hw"]);
    EXPECT_EQ(Json({video.sizes.fast.height, video.sizes.fast.width}), row["fast_size_hw"]);
  }
}

TEST(FrameTypes, SimilarityAsTheReference) {
  const Json goldens = read_json(kGoldens / "preprocess/videos.json").value();
  std::vector<media::Image> small;
  for (int i = 0; i < 8; ++i) small.push_back(hsv_of(media::resize_frame(decoded_frame(i), 168, 252)));
  for (size_t i = 0; i < small.size(); ++i) {
    const Json& row = goldens["similarity_to_first_and_last_at_168x252"][i];
    EXPECT_EQ(frame_similarity(small.front(), small[i]), row[0].get<float>()) << i;
    EXPECT_EQ(frame_similarity(small[i], small.back()), row[1].get<float>()) << i;
  }
}

TEST(FrameTypes, BlackFramesAreFast) {
  FrameClassifier classifier(kMinFrameSimilarity);
  EXPECT_FALSE(classifier.is_fast(media::Image(56, 56)));
  EXPECT_TRUE(classifier.is_fast(media::Image(56, 56)));  // nothing to compare: not less than any threshold
}

TEST(Videos, FramesAreTold) {
  Clip clip = golden_clip(2.0);
  std::vector<VisionItem> told;
  int64_t last = 0;
  const VideoWatch watch{
      .progress = [&](int64_t done, int64_t) { last = done; },
      .ready = [&](std::span<const VisionItem> frames) { told.insert(told.end(), frames.begin(), frames.end()); }};
  const PreparedVideo video = processor_of("all_slow").prepare(clip, {}, false, watch).value();
  ASSERT_EQ(told.size(), video.frames.size());
  for (size_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i].content, video.frames[i].content);
  EXPECT_EQ(last, 8);
}

TEST(Videos, TooManyTokensAreRefusedBeforeFramesAreRead) {
  Clip clip = golden_clip(2.0);
  const auto video = processor_of("all_slow").prepare(clip, {}, false, {.tokens_max = 100});
  ASSERT_FALSE(video.has_value());
  EXPECT_EQ(video.error().code, ErrorCode::too_large);
  EXPECT_THAT(video.error().message, HasSubstr("8 frames need 560 tokens, and 100 are left"));
  EXPECT_EQ(clip.reads, 0);
}

TEST(Videos, AStopEndsThem) {
  Clip clip = golden_clip(2.0);
  std::stop_source stop;
  stop.request_stop();
  const auto video = processor_of("all_slow").prepare(clip, {}, false, {.stop = stop.get_token()});
  ASSERT_FALSE(video.has_value());
  EXPECT_EQ(video.error().code, ErrorCode::cancelled);
}

TEST(PictureFrames, OfOtherShapesAreRefused) {
  std::vector<std::string> files = {frame_file(0), read_file(kGoldens / "images/rgb_62x130.png").value()};
  PictureFrames list =
      PictureFrames::open(std::move(files), {.factor = 28, .min_pixels = 3136, .max_pixels = 50176}, {}).value();
  const auto video = processor_of("all_slow").prepare(list, {.fps = 2.0}, true, {});
  ASSERT_FALSE(video.has_value());
  EXPECT_EQ(video.error().where, "frame 1");
  EXPECT_THAT(video.error().message, HasSubstr("one shape"));
  EXPECT_EQ(PictureFrames::open({"no picture"}, {}, {}).error().where, "frame 0");
}

}  // namespace
}  // namespace keye::prompt
