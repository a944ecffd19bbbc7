// Clips through real worker processes: this program is its own worker.
#include "media/video.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
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
      // Keyframes that are no clean beginnings: gradual refresh, and frames before them that need earlier ones.
      {"matroska", "libx264", "matroska, h264", {{"preset", "medium"}, {"x264-params", "intra-refresh=1"}}},
      {"mpegts", "libx264", "mpegts, h264", {{"x264-params", "open-gop=1:bframes=3"}}},
      {"avi", "mpeg4", "avi, mpeg4", {}},
      {"mp4", "mpeg4", "mp4, mpeg4", {}},
      {"mp4",
       "libx265",
       "mp4, hevc",
       {{"x265-params", "log-level=none:pools=none:keyint=12:open-gop=1"}, {"preset", "ultrafast"}}},
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

TEST(Video, UnevenFramesAreCountedAndFound) {
  VideoDecoder decoder(testing::options());
  for (const char* format : {"mp4", "matroska"}) {
    ClipRecipe recipe;
    recipe.format = format;
    recipe.frames = 40;
    for (int64_t i = 0, time = 0; i < recipe.frames; ++i, time += i % 5 == 0 ? 900 : 100) recipe.times.push_back(time);
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_TRUE(source) << source.error().to_string();
    EXPECT_EQ((*source)->info().frames, 40);
    // 39 steps, of which 7 last 9 ticks and the others one, and the last frame.
    EXPECT_NEAR((*source)->info().duration_s, (39 + 7 * 8 + 1) / 25.0, 0.05);
    EXPECT_NEAR((*source)->info().fps, 40 / (*source)->info().duration_s, 1e-6);
    const auto numbers = read_numbers(**source, std::vector<int64_t>{5, 17, 33});
    ASSERT_TRUE(numbers) << numbers.error().to_string();
    EXPECT_EQ(*numbers, (std::vector<int64_t>{5, 17, 33}));
  }
}

TEST(Video, QuarterTurnsAndMirrorsAreApplied) {
  VideoDecoder decoder(testing::options());
  ClipRecipe recipe;
  recipe.frames = 2;
  recipe.options = {{"qp", "0"}};
  const auto upright = open_clip(decoder, make_clip(recipe));
  ASSERT_TRUE(upright) << upright.error().to_string();
  const Image base = read_frames(**upright, std::vector<int64_t>{1}).value()[0];
  for (const bool mirrored : {false, true}) {
    for (const int rotation : {0, 90, 180, 270}) {
      SCOPED_TRACE(std::to_string(rotation) + (mirrored ? " mirrored" : ""));
      recipe.rotation = rotation;
      recipe.mirrored = mirrored;
      const auto source = open_clip(decoder, make_clip(recipe));
      ASSERT_TRUE(source) << source.error().to_string();
      const Image turned = read_frames(**source, std::vector<int64_t>{1}).value()[0];
      ASSERT_EQ(turned.width, rotation % 180 == 0 ? 128 : 96);
      ASSERT_EQ(turned.height, rotation % 180 == 0 ? 96 : 128);
      // Where the encoded picture's pixel (9, 5) must be.
      int x = 9;
      int y = 5;
      for (int turns = 0, height = 96, width = 128; turns < rotation / 90; ++turns, std::swap(height, width)) {
        const int old = x;
        x = y;
        y = width - 1 - old;
      }
      if (mirrored) x = turned.width - 1 - x;
      for (int channel = 0; channel < 3; ++channel) {
        EXPECT_EQ(turned.row(y)[x * 3 + channel], base.row(5)[9 * 3 + channel]);
      }
    }
  }
}

TEST(Video, OtherAnglesAreRefused) {
  VideoDecoder decoder(testing::options());
  ClipRecipe recipe;
  recipe.frames = 2;
  recipe.rotation = 30;
  const auto source = open_clip(decoder, make_clip(recipe));
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::unsupported);
  EXPECT_NE(source.error().message.find("30 degrees"), std::string::npos) << source.error().message;
}

/// Against the standards' own numbers for red, white and grey.
TEST(Video, MatrixAndRangeAreTheClips) {
  VideoDecoder decoder(testing::options());
  struct Case {
    int space, range, plain;
    int red, green, blue;
  };
  constexpr Case kCases[] = {
      {2, 0, 0x515af0, 255, 0, 0},  // BT.601, limited
      {1, 1, 0x3f66f0, 255, 0, 0},  // BT.709, limited
      {2, 1, 0xeb8080, 255, 255, 255},
      {2, 2, 0xeb8080, 235, 235, 235},  // full
  };
  for (const Case& each : kCases) {
    ClipRecipe recipe;
    recipe.frames = 1;
    recipe.options = {{"qp", "0"}};
    recipe.colour_space = each.space;
    recipe.colour_range = each.range;
    recipe.plain = each.plain;
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_TRUE(source) << source.error().to_string();
    const Image frame = read_frames(**source, std::vector<int64_t>{0}).value()[0];
    EXPECT_NEAR(frame.rgb[0], each.red, 2) << std::hex << each.plain;
    EXPECT_NEAR(frame.rgb[1], each.green, 2) << std::hex << each.plain;
    EXPECT_NEAR(frame.rgb[2], each.blue, 2) << std::hex << each.plain;
  }
}

TEST(Video, OddSizes) {
  VideoDecoder decoder(testing::options());
  for (const auto& [width, height] : {std::pair{127, 95}, {33, 17}, {16, 2}, {50, 401}}) {
    ClipRecipe recipe;
    recipe.codec = "libvpx-vp9";
    recipe.format = "webm";
    recipe.options = {{"deadline", "realtime"}, {"cpu-used", "8"}};
    recipe.b_frames = 0;
    recipe.frames = 5;
    recipe.width = width;
    recipe.height = height;
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_TRUE(source) << source.error().to_string();
    EXPECT_EQ((*source)->info().width, width);
    EXPECT_EQ((*source)->info().height, height);
    const auto frames = read_frames(**source, all_of(**source));
    ASSERT_TRUE(frames) << frames.error().to_string();
    for (const Image& frame : *frames) {
      EXPECT_EQ(frame.rgb.size(), static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
    }
    if (width > 100) {
      EXPECT_EQ(frame_number((*frames)[3]), 3);
    }
  }
}

/// Fragmented, streamed and headerless clips do not know their length; the frames are counted.
TEST(Video, ClipsWithoutALength) {
  VideoDecoder decoder(testing::options());
  ClipRecipe fragmented;
  fragmented.muxing = {{"movflags", "frag_keyframe+empty_moov"}};
  ClipRecipe live;
  live.format = "matroska";
  live.muxing = {{"live", "1"}};
  for (const ClipRecipe& recipe : {fragmented, live}) {
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_TRUE(source) << source.error().to_string();
    EXPECT_EQ((*source)->info().frames, 30);
    EXPECT_NEAR((*source)->info().fps, 25, 0.8);
    EXPECT_EQ(read_numbers(**source, std::vector<int64_t>{0, 29}).value(), (std::vector<int64_t>{0, 29}));
  }
}

/// What is left of a clip that breaks off can be read, to its last whole frame.
TEST(Video, BrokenTails) {
  VideoDecoder decoder(testing::options());
  ClipRecipe fragmented;
  fragmented.muxing = {{"movflags", "frag_every_frame+empty_moov"}};
  ClipRecipe matroska;
  matroska.format = "matroska";
  ClipRecipe stream;
  stream.format = "mpegts";
  ClipRecipe avi;
  avi.format = "avi";
  avi.codec = "mpeg4";
  for (const ClipRecipe& recipe : {fragmented, matroska, stream, avi}) {
    SCOPED_TRACE(recipe.format);
    const std::string whole = make_clip(recipe);
    const auto source = open_clip(decoder, whole.substr(0, whole.size() * 7 / 10));
    ASSERT_TRUE(source) << source.error().to_string();
    const int64_t frames = (*source)->info().frames;
    EXPECT_GT(frames, 10);
    EXPECT_LT(frames, 29);
    const auto numbers = read_numbers(**source, all_of(**source));
    ASSERT_TRUE(numbers) << numbers.error().to_string();
    for (int64_t i = 0; i + 3 < frames; ++i) EXPECT_EQ((*numbers)[static_cast<size_t>(i)], i);
  }
  const std::string no_index = make_clip(ClipRecipe{});  // an MP4's index is at its end
  const auto source = open_clip(decoder, no_index.substr(0, no_index.size() / 2));
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::corrupt_data);
}

TEST(Video, RefusedByName) {
  VideoDecoder decoder(testing::options());
  ClipRecipe sound;
  sound.sound_only = true;
  ClipRecipe raw;
  raw.codec = "ffv1";
  raw.format = "matroska";
  raw.b_frames = 0;
  ClipRecipe flv;
  flv.format = "flv";
  struct Case {
    std::string bytes;
    ErrorCode code;
    const char* says;
  };
  const Case cases[] = {
      {make_clip(sound), ErrorCode::unsupported, "no stream of pictures"},
      {make_clip(raw), ErrorCode::unsupported, "the codec is ffv1"},
      {make_clip(flv), ErrorCode::unsupported, "this is FLV"},
      {"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/passwd\n", ErrorCode::unsupported, "HLS playlist"},
      {"ffconcat version 1.0\nfile '/etc/passwd'\n", ErrorCode::unsupported, "ffconcat"},
      {"\x89PNG\r\n", ErrorCode::unsupported, "a picture"},
      {"", ErrorCode::corrupt_data, "no video that is known here"},
      {std::string(4000, 'x'), ErrorCode::corrupt_data, "no video that is known here"},
      {std::string("\0\0\0\x20"
                   "ftypisom",
                   12) +
           std::string(500, '\xff'),
       ErrorCode::corrupt_data, "container"},
  };
  for (const Case& each : cases) {
    const auto source = open_clip(decoder, each.bytes);
    ASSERT_FALSE(source) << each.says;
    EXPECT_EQ(source.error().code, each.code) << source.error().message;
    EXPECT_NE(source.error().message.find(each.says), std::string::npos) << source.error().message;
  }
}

TEST(Video, Limits) {
  VideoOptions options = testing::options();
  options.limits.pixels_max = 128 * 96;
  options.limits.frames_max = 30;
  VideoDecoder decoder(options);
  EXPECT_TRUE(open_clip(decoder, make_clip(ClipRecipe{})));
  ClipRecipe larger;
  larger.width = 144;
  ClipRecipe longer;
  longer.frames = 31;
  for (const ClipRecipe& recipe : {larger, longer}) {
    const auto source = open_clip(decoder, make_clip(recipe));
    ASSERT_FALSE(source);
    EXPECT_EQ(source.error().code, ErrorCode::too_large) << source.error().message;
  }
  options.limits.bytes_max = 100;
  VideoDecoder shorter(options);
  EXPECT_EQ(open_clip(shorter, make_clip(ClipRecipe{})).error().code, ErrorCode::too_large);
  EXPECT_EQ(Clip::from_bytes("12345", 4).error().code, ErrorCode::too_large);
  EXPECT_EQ(Clip::from_file("CMakeLists.txt", 4).error().code, ErrorCode::too_large);
  EXPECT_EQ(Clip::from_file("no such file", 4).error().code, ErrorCode::not_found);
  EXPECT_EQ(Clip::from_file("src", 4).error().code, ErrorCode::io);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they take all address space for themselves
TEST(Video, MemoryOfTheWorkerIsLimited) {
  VideoOptions options = testing::options();
  ClipRecipe recipe;
  recipe.width = 1920;
  recipe.height = 1080;
  recipe.frames = 4;
  recipe.options = {{"preset", "ultrafast"}};
  const std::string clip = make_clip(recipe);
  options.limits.memory_max = 16 << 20;
  VideoDecoder small(options);
  const auto refused = open_clip(small, clip);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::too_large) << refused.error().message;
  options.limits.memory_max = 512 << 20;
  VideoDecoder large(options);
  const auto source = open_clip(large, clip);
  ASSERT_TRUE(source) << source.error().to_string();
  EXPECT_EQ(read_numbers(**source, std::vector<int64_t>{3}).value(), std::vector<int64_t>{3});
}
#endif

/// A few hundred bytes that declare 16384 x 16384 pixels.
TEST(Video, DeclaredSizesAreNotAllocated) {
  VideoDecoder decoder(testing::options());
  std::string clip = make_clip([] {
    ClipRecipe recipe;
    recipe.format = "gif";
    recipe.codec = "gif";
    recipe.pixels = "gray";
    recipe.frames = 3;
    recipe.b_frames = 0;
    return recipe;
  }());
  clip[7] = '\x40';  // width, height: 16 bits each, low byte first
  clip[9] = '\x40';
  const auto source = open_clip(decoder, clip);
  ASSERT_FALSE(source);
  EXPECT_NE(source.error().message.find("limit of 35651584 pixels"), std::string::npos) << source.error().message;
}

TEST(Video, FilesAreReadWhereTheyLie) {
  VideoDecoder decoder(testing::options());
  const Path folder = std::filesystem::temp_directory_path() / fmt::format("keye-video-test-{}", ::getpid());
  std::filesystem::create_directory(folder);
  ASSERT_TRUE(write_file(folder / "clip.mp4", make_clip(ClipRecipe{})));
  auto clip = Clip::from_file_below(folder, folder / "clip.mp4", 1 << 20);
  ASSERT_TRUE(clip) << clip.error().to_string();
  const auto source = decoder.open(std::move(clip).value(), {});
  ASSERT_TRUE(source) << source.error().to_string();
  EXPECT_EQ(read_numbers(**source, std::vector<int64_t>{21}).value(), std::vector<int64_t>{21});
  EXPECT_EQ(Clip::from_file_below(folder, "/etc/hostname", 1 << 20).error().code, ErrorCode::invalid_argument);
  std::filesystem::remove_all(folder);
}

/// More clips open than workers: whoever is not reading gives way and opens again when it reads.
TEST(Video, OpenClipsShareWorkers) {
  VideoOptions options = testing::options();
  options.workers_max = 1;
  VideoDecoder decoder(options);
  std::vector<std::unique_ptr<FrameSource>> sources;
  for (int i = 0; i < 3; ++i) {
    auto source = open_clip(decoder, make_clip(ClipRecipe{}));
    ASSERT_TRUE(source) << source.error().to_string();
    sources.push_back(std::move(source).value());
  }
  for (int64_t round = 0; round < 2; ++round) {
    for (const auto& source : sources) {
      EXPECT_EQ(read_numbers(*source, std::vector<int64_t>{4, 20 + round}).value(),
                (std::vector<int64_t>{4, 20 + round}));
    }
  }
}

TEST(Video, ErrorsOfTheTakerEndReading) {
  VideoDecoder decoder(testing::options());
  const auto source = open_clip(decoder, make_clip(ClipRecipe{}));
  ASSERT_TRUE(source) << source.error().to_string();
  const auto refuse = [](size_t place, Image&&) -> Result<void> {
    if (place < 3) return {};
    return Error{ErrorCode::overloaded, "enough", ""};
  };
  EXPECT_EQ((*source)->read(all_of(**source), refuse, {}).error().message, "enough");
  EXPECT_EQ(read_numbers(**source, std::vector<int64_t>{9}).value(), std::vector<int64_t>{9});
}

}  // namespace
}  // namespace keye::media

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "video-worker") keye::media::run_video_worker();
  if (argc > 2 && std::string_view(argv[1]) == "broken-worker") return keye::media::testing::run_broken_worker(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
