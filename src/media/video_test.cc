// Clips through real worker processes: this program is its own worker.
#include "media/video.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "media/clip_testing.h"
#include "media/video_testing.h"
#include "media/video_worker.h"

namespace keye::media {
namespace {

using testing::ClipRecipe;
using testing::frame_number;
using testing::make_clip;
using testing::open_clip;
using testing::read_frames;
using testing::read_numbers;

std::vector<int64_t> all_of(const FrameSource& source) {
  std::vector<int64_t> indices(static_cast<size_t>(source.info().frames));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

struct Combination {
  const char* format;
  const char* codec;
  const char* name;
  std::map<std::string, std::string> options;
};

std::vector<Combination> combinations() {
  const std::map<std::string, std::string> vpx = {{"deadline", "realtime"}, {"cpu-used", "8"}};
  return {
      {"mp4", "libx264", "mp4, h264", {{"preset", "ultrafast"}, {"bf", "2"}}},
      {"mov", "libx264", "mp4, h264", {{"preset", "medium"}}},
      {"matroska", "libx264", "matroska, h264", {{"preset", "medium"}}},
      {"mpegts", "libx264", "mpegts, h264", {{"preset", "medium"}}},
      {"avi", "mpeg4", "avi, mpeg4", {}},
      {"mp4", "mpeg4", "mp4, mpeg4", {}},
      {"mp4",
       "libx265",
       "mp4, hevc",
       {{"x265-params", "log-level=none:pools=none:keyint=12"}, {"preset", "ultrafast"}}},
      {"mpegts", "libx265", "mpegts, hevc", {{"x265-params", "log-level=none:pools=none"}, {"preset", "ultrafast"}}},
      {"webm", "libvpx", "matroska, vp8", vpx},
      {"webm", "libvpx-vp9", "matroska, vp9", vpx},
      {"mp4", "libaom-av1", "mp4, av1", {{"cpu-used", "8"}, {"usage", "realtime"}}},
      {"gif", "gif", "gif, gif", {}},
  };
}

ClipRecipe recipe_of(const Combination& combination) {
  ClipRecipe recipe;
  recipe.format = combination.format;
  recipe.codec = combination.codec;
  recipe.options = combination.options;
  if (recipe.codec == "gif") recipe.pixels = "gray";
  if (recipe.codec.starts_with("libvpx") || recipe.codec == "gif" || recipe.codec == "libaom-av1") recipe.b_frames = 0;
  return recipe;
}

TEST(Video, EveryCodecInItsContainers) {
  VideoDecoder decoder(testing::options());
  for (const Combination& combination : combinations()) {
    SCOPED_TRACE(std::string(combination.format) + " " + combination.codec);
    const auto source = open_clip(decoder, make_clip(recipe_of(combination)));
    ASSERT_TRUE(source) << source.error().to_string();
    const VideoInfo& info = (*source)->info();
    EXPECT_EQ(info.width, 128);
    EXPECT_EQ(info.height, 96);
    EXPECT_EQ(info.frames, 30);
    EXPECT_NEAR(info.fps, 25, 0.8);
    EXPECT_NEAR(info.duration_s, 1.2, 0.05);
    EXPECT_EQ(info.format, combination.name);
    const auto numbers = read_numbers(**source, all_of(**source));
    ASSERT_TRUE(numbers) << numbers.error().to_string();
    EXPECT_EQ(*numbers, all_of(**source));
  }
}

/// Frames that are asked for alone are the same as those among all others, bit for bit: neither what is left out nor
/// where decoding begins shows.
TEST(Video, SomeFramesAreAsAmongAll) {
  VideoDecoder decoder(testing::options());
  for (const Combination& combination : combinations()) {
    SCOPED_TRACE(std::string(combination.format) + " " + combination.codec);
    ClipRecipe recipe = recipe_of(combination);
    recipe.frames = 80;
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_TRUE(source) << source.error().to_string();
    const auto all = read_frames(**source, all_of(**source));
    ASSERT_TRUE(all) << all.error().to_string();
    for (const std::vector<int64_t>& indices : std::vector<std::vector<int64_t>>{
             {79}, {0}, {13, 14, 15}, {0, 7, 14, 21, 28, 70}, {3, 3, 3, 60, 60}, {11, 12, 23, 24, 25, 37}, {0, 79}}) {
      const auto some = read_frames(**source, indices);
      ASSERT_TRUE(some) << some.error().to_string();
      ASSERT_EQ(some->size(), indices.size());
      for (size_t i = 0; i < indices.size(); ++i) {
        EXPECT_TRUE((*some)[i].rgb == (*all)[static_cast<size_t>(indices[i])].rgb) << indices[i];
      }
    }
  }
}

}  // namespace
}  // namespace keye::media

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "video-worker") keye::media::run_video_worker();
  if (argc > 2 && std::string_view(argv[1]) == "broken-worker") return keye::media::testing::run_broken_worker(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
