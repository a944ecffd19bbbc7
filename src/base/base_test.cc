#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace keye {
namespace {

TEST(Json, RefusesDuplicateKeysDepthAndTrailingBytes) {
  EXPECT_TRUE(parse_json(R"({"a": [1, 2.5, "x", null, true]})", "t"));
  EXPECT_EQ(parse_json(R"({"a": 1, "a": 2})", "t").error().message, "key \"a\" appears twice");
  EXPECT_EQ(parse_json(std::string(200, '['), "t").error().code, ErrorCode::corrupt_data);
  EXPECT_FALSE(parse_json("{} x", "t"));
  EXPECT_FALSE(parse_json("", "t"));
  EXPECT_FALSE(parse_json("{\"a\":", "t"));
}

TEST(File, WriteReadMap) {
  const Path path = Path(testing::TempDir()) / "keye_file_test";
  ASSERT_TRUE(write_file(path, "hello"));
  EXPECT_EQ(read_file(path).value(), "hello");
  EXPECT_EQ(read_file(path, 4).error().code, ErrorCode::too_large);
  auto mapped = MappedFile::open(path);
  ASSERT_TRUE(mapped);
  EXPECT_EQ(mapped->bytes().size(), 5U);
  EXPECT_EQ(read_file(path.string() + ".none").error().code, ErrorCode::not_found);
  EXPECT_EQ(MappedFile::open(testing::TempDir()).error().code, ErrorCode::io);
  std::filesystem::remove(path);
}

TEST(File, BelowAFolder) {
  const Path folder = Path(testing::TempDir()) / "keye_below_test";
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(write_file(folder / "file", "hello"));
  EXPECT_EQ(read_file_below(folder, "file", 5).value(), "hello");
  EXPECT_EQ(read_file_below(folder, "./../keye_below_test/file", 5).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(read_file_below(folder, folder / "file", 5).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(read_file_below(folder, "file", 4).error().code, ErrorCode::too_large);
  EXPECT_EQ(read_file_below(folder, "none", 5).error().code, ErrorCode::not_found);
  EXPECT_EQ(read_file_below(folder / "none", "file", 5).error().code, ErrorCode::not_found);
  EXPECT_EQ(read_file_below(folder, ".", 5).error().code, ErrorCode::io);
  EXPECT_EQ(read_file_below("/proc", "version", 1000).error().code, ErrorCode::io);
  std::filesystem::remove_all(folder);
}

TEST(ThreadPool, EveryItemOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> counts(static_cast<size_t>(round));
      pool.for_each(round, [&](int64_t i, int worker) {
        ASSERT_LT(worker, threads);
        counts[static_cast<size_t>(i)].fetch_add(1);
      });
      for (auto& count : counts) ASSERT_EQ(count.load(), 1);
    }
  }
}

// Threads that come late, because there are more of them than processors, must not touch a loop that is not theirs.
TEST(ThreadPool, LateThreadsFindNothing) {
  ThreadPool pool(8);
  for (int64_t loop = 0; loop < 20'000; ++loop) {
    const int64_t items = 1 + loop % 7;
    std::atomic<int64_t> sum{0};
    pool.for_each(items, [&sum, loop, items](int64_t i, int) {
      ASSERT_LT(i, items);
      sum.fetch_add(loop + i);
    });
    ASSERT_EQ(sum.load(), items * loop + items * (items - 1) / 2);
  }
}

TEST(ThreadPool, AnInterruptedLoopEndsSoonAndSaysSo) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::atomic<int64_t> items{0};
    const auto loop = [&](int64_t count) {
      pool.for_each(count, [&](int64_t, int) {
        items.fetch_add(1);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    };
    std::thread other([&] {
      while (items.load() < 10) std::this_thread::yield();
      pool.interrupt();
    });
    EXPECT_THROW(loop(100'000), LoopInterrupted);  // would take 20 s at least
    other.join();
    EXPECT_LT(items.load(), 10'000);
    const int64_t before = items.load();
    EXPECT_THROW(loop(3), LoopInterrupted);  // those that begin later, too
    EXPECT_EQ(items.load(), before);
    pool.finish_each(3, [&](int64_t, int) { items.fetch_sub(1); });  // this one is whole all the same
    EXPECT_EQ(items.load(), before - 3);
    items.fetch_add(3);
    pool.resume();
    loop(3);
    EXPECT_EQ(items.load(), before + 3);
  }
}

}  // namespace
}  // namespace keye
