// Workers that die, hang or lie; what the sandbox forbids; what is left after hundreds of bad clips.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "media/sandbox.h"
#include "media/video_report.h"
#include "media/video_testing.h"

namespace keye::media {
namespace {

using testing::ClipRecipe;
using testing::make_clip;
using testing::open_clip;
using testing::read_frames;
using testing::read_numbers;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

VideoOptions broken(const std::string& fault, double seconds_max = 60) {
  VideoOptions options = testing::options();
  options.worker.arguments = {"broken-worker", fault};
  options.limits.seconds_max = seconds_max;
  return options;
}

TEST(HostileWorker, LiesWhenOpening) {
  for (const char* fault : {"width", "negative", "frames", "rate", "codec", "kind", "short", "name", "failure"}) {
    SCOPED_TRACE(fault);
    VideoDecoder decoder(broken(fault));
    const auto source = open_clip(decoder, "a clip");
    ASSERT_FALSE(source);
    const ErrorCode code = source.error().code;
    EXPECT_TRUE(code == ErrorCode::corrupt_data || code == ErrorCode::too_large || code == ErrorCode::unsupported);
    EXPECT_EQ(source.error().message.find('\x1b'), std::string::npos);
  }
}

TEST(HostileWorker, LiesWhenReading) {
  for (const char* fault : {"place", "twice", "done", "shrink", "dies", "segfault", "sandbox"}) {
    SCOPED_TRACE(fault);
    VideoDecoder decoder(broken(fault));
    const auto source = open_clip(decoder, "a clip");
    ASSERT_TRUE(source) << source.error().to_string();
    const auto frames = read_frames(**source, std::vector<int64_t>{0, 3, 5});
    ASSERT_FALSE(frames);
    EXPECT_EQ(frames.error().code, ErrorCode::corrupt_data) << frames.error().message;
    // The next one gets a new worker.
    EXPECT_TRUE(open_clip(decoder, "a clip"));
  }
}

TEST(HostileWorker, HangsOrFloods) {
  VideoDecoder hanging(broken("hangs", 1));
  const auto source = open_clip(hanging, "a clip");
  ASSERT_TRUE(source) << source.error().to_string();
  const auto begin = Clock::now();
  const auto frames = read_frames(**source, std::vector<int64_t>{0});
  ASSERT_FALSE(frames);
  EXPECT_EQ(frames.error().code, ErrorCode::deadline) << frames.error().message;
  EXPECT_LT(seconds_since(begin), 5);
  VideoDecoder flooding(broken("floods"));
  const auto flooded = open_clip(flooding, "a clip");
  ASSERT_TRUE(flooded) << flooded.error().to_string();
  EXPECT_EQ(read_frames(**flooded, std::vector<int64_t>{0}).error().code, ErrorCode::corrupt_data);
}

TEST(HostileWorker, CannotBeStarted) {
  VideoOptions options = testing::options();
  options.worker.program = "/no/such/program";
  VideoDecoder none(options);
  EXPECT_EQ(open_clip(none, "a clip").error().code, ErrorCode::io);
  VideoDecoder dying(broken("dies_at_start"));
  EXPECT_EQ(open_clip(dying, "a clip").error().code, ErrorCode::unavailable);
  VideoDecoder open(broken("open_sandbox"));  // says that it has no sandbox, which was not allowed
  EXPECT_EQ(open_clip(open, "a clip").error().code, ErrorCode::unavailable);
}

TEST(HostileWorker, AStopIsHeardAtOnce) {
  VideoOptions options = broken("hangs");
  options.workers_max = 1;
  VideoDecoder decoder(options);
  const auto source = open_clip(decoder, "a clip");
  ASSERT_TRUE(source) << source.error().to_string();
  std::stop_source stopping;
  Clock::time_point asked;
  double waited = 0;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    asked = Clock::now();
    stopping.request_stop();
  });
  const auto ignore = [](size_t, Image&&) -> Result<void> { return {}; };
  const auto outcome = (*source)->read(std::vector<int64_t>{0}, ignore, stopping.get_token());
  stopper.join();
  waited = seconds_since(asked);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::cancelled);
  EXPECT_LT(waited, 0.1);
}

TEST(HostileWorker, AStopIsHeardWhileWaitingForAWorker) {
  VideoOptions options = broken("hangs");
  options.workers_max = 1;
  VideoDecoder decoder(options);
  const auto source = open_clip(decoder, "a clip");
  ASSERT_TRUE(source) << source.error().to_string();
  std::stop_source reading;
  std::jthread reader([&] {
    const auto ignore = [](size_t, Image&&) -> Result<void> { return {}; };
    EXPECT_FALSE((*source)->read(std::vector<int64_t>{0}, ignore, reading.get_token()));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  std::stop_source stopping;
  Clock::time_point asked;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    asked = Clock::now();
    stopping.request_stop();
  });
  auto clip = Clip::from_bytes("a clip", 100);
  ASSERT_TRUE(clip);
  const auto second = decoder.open(std::move(clip).value(), stopping.get_token());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::cancelled);
  EXPECT_LT(seconds_since(asked), 0.1);
  reading.request_stop();
}

/// Whoever is killed takes its workers along: the one that decodes, and the one that was started ahead.
TEST(HostileWorker, EndsWithItsParent) {
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // orphans come to this process
  const std::string clip = make_clip(ClipRecipe{});
  const pid_t child = ::fork();
  if (child == 0) {
    VideoDecoder decoder(testing::options());
    const auto source = open_clip(decoder, clip);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  int orphans = 0;
  const auto begin = Clock::now();
  while (seconds_since(begin) < 20) {
    const pid_t ended = ::waitpid(-1, &status, WNOHANG);
    if (ended < 0) break;      // there are none left
    if (ended > 0) ++orphans;  // killed, or because its socket closed: which of them is first is up to the system
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(orphans, 2);
  EXPECT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

/// The signal that ended a child which entered the sandbox and then did `what`; 0 when it ended by itself.
int signal_of(const std::function<void()>& what) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (enter_sandbox(3) != 0) ::_exit(99);
    what();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) != 0) << "exit code " << WEXITSTATUS(status);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(Sandbox, ForbidsWhatNoDecoderNeeds) {
  EXPECT_EQ(signal_of([] {}), 0);
  EXPECT_EQ(signal_of([] { ::socket(AF_INET, SOCK_STREAM, 0); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::fork(); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::execl("/bin/true", "true", nullptr); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::kill(::getppid(), SIGTERM); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::unlink("/tmp/none"); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::syscall(SYS_ptrace, 0, 0, 0, 0); }), SIGSYS);
  EXPECT_EQ(signal_of([] { ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }),
            SIGSYS);
  EXPECT_EQ(signal_of([] {
              char byte = 0;
              ::send(4, &byte, 1, 0);  // another descriptor than the one it has
            }),
            SIGSYS);
  // Fails, and the process may go on.
  EXPECT_EQ(signal_of([] {
              if (::open("/etc/passwd", O_RDONLY) >= 0 || errno != EACCES) ::_exit(1);
            }),
            0);
}

/// The overflow was in FFmpeg's JPEG 2000 decoder, reached through a clip; and an error told an address.
TEST(Video, CVE_2026_22778_Jpeg2000InAClipReachesNoDecoder) {
  VideoDecoder decoder(testing::options());
  ClipRecipe recipe;
  recipe.format = "mov";
  recipe.codec = "jpeg2000";
  recipe.b_frames = 0;
  recipe.frames = 2;
  const auto source = open_clip(decoder, make_clip(recipe));
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::unsupported);
  EXPECT_NE(source.error().message.find("the codec is jpeg2000"), std::string::npos) << source.error().message;
}

TEST(HostileWorker, CVE_2026_22778_ErrorsTellNoAddresses) {
  for (const char* fault : {"segfault", "sandbox", "dies", "place"}) {
    VideoDecoder decoder(broken(fault));
    const auto source = open_clip(decoder, "a clip");
    ASSERT_TRUE(source) << source.error().to_string();
    const auto frames = read_frames(**source, std::vector<int64_t>{0});
    ASSERT_FALSE(frames);
    EXPECT_EQ(frames.error().to_string().find("0x"), std::string::npos) << frames.error().to_string();
  }
}

TEST(Report, DeathsAreNamed) {
  EXPECT_EQ(death_error(true, SIGXCPU).code, ErrorCode::deadline);
  EXPECT_NE(death_error(true, SIGSEGV).message.find("signal 11"), std::string::npos);
  EXPECT_NE(death_error(true, SIGSYS).message.find("sandbox"), std::string::npos);
  EXPECT_EQ(death_error(false, 0).code, ErrorCode::corrupt_data);
}

int open_descriptors() {
  int count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

/// A worker that was started ahead is on its way, or one that ended is not quite gone: what holds still counts.
int settled_descriptors(int expected) {
  for (int tries = 0; tries < 100 && open_descriptors() != expected; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return open_descriptors();
}

int64_t resident_kb() {
  std::string text = read_file("/proc/self/statm").value();
  return std::stoll(text.substr(text.find(' '))) * ::sysconf(_SC_PAGESIZE) / 1024;
}

/// A third cut, all with bits flipped.
std::string spoiled(std::string bytes, std::mt19937& random) {
  if (random() % 3 == 0) bytes.resize(random() % bytes.size() + 1);
  for (auto flips = random() % 40; flips > 0; --flips) {
    bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
  }
  return bytes;
}

TEST(Video, NothingIsLeftOfBadClips) {
  VideoOptions options = testing::options();
  options.limits.seconds_max = 20;
  VideoDecoder decoder(options);
  ClipRecipe transport;
  transport.format = "mpegts";
  const std::vector<std::string> seeds = {make_clip(ClipRecipe{}), make_clip(transport)};
  std::mt19937 random(7);
  int descriptors = 0;
  int64_t resident = 0;
  int good = 0;
  int bad = 0;
  for (size_t i = 0; i < 200; ++i) {
    if (i == 20) {  // all caches are filled
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      descriptors = open_descriptors();
      resident = resident_kb();
    }
    const auto source = open_clip(decoder, spoiled(seeds[i % seeds.size()], random));
    if (!source) {
      ++bad;
      EXPECT_FALSE(source.error().message.empty());
      continue;
    }
    const auto frames = read_frames(**source, std::vector<int64_t>{(*source)->info().frames - 1});
    frames ? ++good : ++bad;
  }
  EXPECT_GT(good, 20);
  EXPECT_GT(bad, 20);
  EXPECT_EQ(settled_descriptors(descriptors), descriptors);
  EXPECT_LT(resident_kb(), resident + 8192);
  EXPECT_EQ(read_numbers(*open_clip(decoder, seeds[0]).value(), std::vector<int64_t>{17}).value(),
            std::vector<int64_t>{17});
}

}  // namespace
}  // namespace keye::media
