#include "prompt/video_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "prompt/media_loader.h"

namespace keye::prompt {
namespace {

using ::testing::HasSubstr;

Digest digest_of(int number) { return Sha256().add_value(number).finish(); }

/// `frames` frames of 28 x 28.
PreparedVideo video_of(size_t frames) {
  PreparedVideo video;
  for (size_t i = 0; i < frames; ++i) {
    video.frames.push_back({.image = std::make_shared<const media::Image>(28, 28), .tokens = 1});
    video.marks.emplace_back();
  }
  return video;
}

constexpr size_t kFrameBytes = 28 * 28 * 3;

TEST(VideoKey, EverythingThatDecidesFramesCounts) {
  const VideoRules rules;
  std::set<Digest> keys;
  const auto add = [&](const VideoKwargs& kwargs) {
    return keys.insert(video_key({}, false, rules, kwargs, "a")).second;
  };
  EXPECT_TRUE(add({}));
  EXPECT_TRUE(add({.fps = 2.0}));  // of a list it says the times
  EXPECT_TRUE(add({.fps = 1.0}));
  EXPECT_TRUE(add({.nframes = 8}));
  EXPECT_TRUE(add({.min_frames = 8}));
  EXPECT_TRUE(add({.max_frames = 8}));
  EXPECT_TRUE(add({.min_pixels = 8}));
  EXPECT_TRUE(add({.max_pixels = 8}));
  EXPECT_TRUE(add({.video_total_pixels = 8}));
  EXPECT_TRUE(add({.factor = 8}));
  EXPECT_TRUE(add({.min_frame_similarity = 2.0}));
  EXPECT_TRUE(add({.video_start = 2.0}));
  EXPECT_TRUE(add({.video_end = 2.0}));
  EXPECT_FALSE(add({.video_end = 2.0}));
  const auto with = [&](const VideoRules& other) { return keys.insert(video_key({}, false, other, {}, "a")).second; };
  EXPECT_TRUE(with({.policy = VideoPolicy::slow_fast}));
  EXPECT_TRUE(with({.limits = {.min_pixels = 1}}));
  EXPECT_TRUE(with({.limits = {.max_pixels = 1}}));
  EXPECT_TRUE(with({.limits = {.total_pixels = 1}}));
  EXPECT_TRUE(with({.factor = 32}));
  EXPECT_TRUE(with({.adaptive = true}));
  EXPECT_TRUE(keys.insert(video_key(digest_of(1), false, rules, {}, "a")).second);
  EXPECT_TRUE(keys.insert(video_key({}, true, rules, {}, "a")).second);
  EXPECT_TRUE(keys.insert(video_key({}, false, rules, {}, "b")).second);
}

TEST(VideoCache, KeepsWhatWasUsedLast) {
  VideoCache cache(13 * kFrameBytes);  // three videos of four frames, and what goes with a frame
  int prepared = 0;
  const auto get = [&](int number) {
    return cache.get(digest_of(number), {}, [&]() -> Result<PreparedVideo> {
      ++prepared;
      return video_of(4);
    });
  };
  const auto first = get(1).value();
  get(2).value();
  EXPECT_EQ(get(1).value(), first) << "the same pixels, not a copy";
  get(3).value();
  EXPECT_EQ(prepared, 3);
  get(4).value();  // 2 goes
  get(1).value();
  EXPECT_EQ(prepared, 4);
  get(2).value();
  EXPECT_EQ(prepared, 5);
  EXPECT_EQ(cache.stats().prepared, 5U);
  EXPECT_EQ(cache.stats().found, 2U);
  EXPECT_GE(cache.stats().bytes, 12 * kFrameBytes);
  EXPECT_LE(cache.stats().bytes, 13 * kFrameBytes);
  cache.clear();
  EXPECT_EQ(cache.stats().bytes, 0U);
  get(1).value();
  EXPECT_EQ(prepared, 6);
}

TEST(VideoCache, WhatIsTooLargeIsNotKept) {
  for (const size_t bytes_max : {size_t{0}, 3 * kFrameBytes}) {
    VideoCache cache(bytes_max);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(cache.get({}, {}, [] { return video_of(4); }).value()->frames.size(), 4U);
    EXPECT_EQ(cache.stats().prepared, 2U);
    EXPECT_EQ(cache.stats().found, 0U);
    EXPECT_EQ(cache.stats().bytes, 0U);
  }
}

/// Likely; what is tested holds whether they do or not.
void let_others_come() { std::this_thread::sleep_for(std::chrono::milliseconds(50)); }

TEST(VideoCache, OnePreparesForAll) {
  VideoCache cache(1 << 20);
  std::atomic<int> prepared{0};
  std::vector<VideoCache::Shared> got(8);
  {
    std::vector<std::jthread> threads;
    for (auto& one : got) {
      threads.emplace_back([&] {
        one = cache
                  .get({}, {},
                       [&]() -> Result<PreparedVideo> {
                         ++prepared;
                         let_others_come();
                         return video_of(4);
                       })
                  .value();
      });
    }
  }
  EXPECT_EQ(prepared, 1);
  for (const auto& one : got) EXPECT_EQ(one, got[0]);
  EXPECT_EQ(cache.stats().found, 7U);
}

TEST(VideoCache, AFailureIsNobodyElses) {
  VideoCache cache(1 << 20);
  std::atomic<int> tries{0};
  std::atomic<int> failed{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        const auto got = cache.get({}, {}, [&]() -> Result<PreparedVideo> {
          let_others_come();
          if (tries++ == 0) return Error{ErrorCode::deadline, "the first one's time is over", ""};
          return video_of(1);
        });
        if (!got) ++failed;
      });
    }
  }
  EXPECT_EQ(tries, 2);
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(cache.stats().prepared, 1U);
}

TEST(VideoCache, WhoWaitsCanBeStopped) {
  VideoCache cache(1 << 20);
  std::atomic<bool> begun{false};
  std::atomic<bool> go_on{false};
  std::jthread first([&] {
    cache
        .get({}, {},
             [&]() -> Result<PreparedVideo> {
               begun = true;
               while (!go_on) std::this_thread::yield();
               return video_of(1);
             })
        .value();
  });
  while (!begun) std::this_thread::yield();
  std::stop_source stop;
  std::jthread second([&] {
    const auto got = cache.get({}, stop.get_token(), [] { return video_of(1); });
    ASSERT_FALSE(got.has_value());
    EXPECT_EQ(got.error().code, ErrorCode::cancelled);
  });
  let_others_come();
  stop.request_stop();
  second.join();
  cache.clear();  // what is being prepared is not kept
  go_on = true;
  first.join();
  EXPECT_EQ(cache.stats().bytes, 0U);
  EXPECT_EQ(cache.stats().found, 0U);
  EXPECT_EQ(cache.get({}, {}, [] { return video_of(1); }).value()->frames.size(), 1U);
  EXPECT_EQ(cache.stats().prepared, 2U);
}

TEST(VideoCache, TheLoaderAsksIt) {
  VideoCache cache(1 << 20);
  const ImageProcessor images({});
  const VideoProcessor videos(images, {.limits = frame_limits(VideoPolicy::all_slow)});
  VideoReference list{.sources = {}, .is_list = true, .kwargs = {.fps = 2.0}, .where = "here"};
  for (int i = 0; i < 4; ++i) list.sources.push_back(fmt::format("tests/golden/frames/clip_{:02d}.png", i));
  int told = 0;
  MediaAccess access;
  access.policy.any_path = true;
  access.video_cache = &cache;
  access.progress = [&](std::string_view, int64_t, int64_t) { ++told; };
  const auto load = [&] { return load_media({list}, {images, &videos}, access); };
  const auto first = load().value();
  EXPECT_GT(told, 0);
  told = 0;
  const auto second = load().value();
  EXPECT_EQ(told, 0);
  ASSERT_EQ(first[0].items.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(first[0].items[i].image, second[0].items[i].image);
    EXPECT_EQ(first[0].marks[i].timestamp, second[0].marks[i].timestamp);
  }
  access.tokens_max = 100;
  const auto without_room = load();
  ASSERT_FALSE(without_room.has_value());
  EXPECT_EQ(without_room.error().code, ErrorCode::too_large);
  EXPECT_THAT(without_room.error().message, HasSubstr("and 100 are left"));
  EXPECT_EQ(cache.stats().prepared, 1U);
  access.tokens_max = 100'000;
  access.cache_salt = "somebody else";
  load().value();
  EXPECT_EQ(cache.stats().prepared, 2U);
  list.sources.pop_back();
  load().value();
  EXPECT_EQ(cache.stats().prepared, 3U);
}

TEST(ClipDigest, FollowsTheBytes) {
  const std::string bytes(3'000'000, 'x');
  const auto of_bytes = [](std::string_view text) { return media::Clip::from_bytes(text, 1 << 24).value().digest({}); };
  EXPECT_EQ(of_bytes(bytes).value(), of_bytes(bytes).value());
  EXPECT_NE(of_bytes(bytes).value(), of_bytes(bytes + "y").value());
  const Path path = Path(::testing::TempDir()) / "keye_clip_digest";
  ASSERT_TRUE(write_file(path, bytes));
  const media::Clip clip = media::Clip::from_file(path, 1 << 24).value();
  const Digest before = clip.digest({}).value();
  EXPECT_EQ(clip.digest({}).value(), before);
  // Written to meanwhile: whatever the bytes are now, it is another.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::ofstream(path, std::ios::in | std::ios::out) << "x";
  EXPECT_NE(clip.digest({}).value(), before);
  std::filesystem::resize_file(path, 1000);
  EXPECT_THAT(clip.digest({}).error().message, HasSubstr("became shorter"));
  std::filesystem::remove(path);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(media::Clip::from_bytes("x", 8).value().digest(stop.get_token()).error().code, ErrorCode::cancelled);
}

}  // namespace
}  // namespace keye::prompt
