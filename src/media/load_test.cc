#include "media/load.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/file.h"

namespace keye::media {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Base64, Decodes) {
  EXPECT_EQ(decode_base64("").value(), "");
  EXPECT_EQ(decode_base64("Zg==").value(), "f");
  EXPECT_EQ(decode_base64("Zm8=").value(), "fo");
  EXPECT_EQ(decode_base64("Zm9v").value(), "foo");
  EXPECT_EQ(decode_base64("Zm9vYmFy").value(), "foobar");
  EXPECT_EQ(decode_base64("Zg").value(), "f");
  EXPECT_EQ(decode_base64("Zm 9v\r\nYmFy\n").value(), "foobar");
  EXPECT_EQ(decode_base64("+/-_").value(), std::string("\xfb\xff\xbf", 3));
}

TEST(Base64, RefusesWhatIsNotBase64) {
  for (const char* text : {"Z", "Zm9vY", "Zg=", "Zm9v=", "Zg==Zg", "Zm9*", "Zg===", "Zm\xc3\xa4v"}) {
    EXPECT_FALSE(decode_base64(text).has_value()) << text;
  }
}

TEST(Percent, Decodes) {
  EXPECT_EQ(decode_percent("a%20b%2fc").value(), "a b/c");
  for (const char* text : {"%", "%4", "a%zz", "%g0"}) EXPECT_FALSE(decode_percent(text).has_value()) << text;
}

TEST(Shown, CutsDataAndWritesControlsOut) {
  EXPECT_EQ(shown_reference("a b\u00fc.png"), "a b\u00fc.png");
  EXPECT_EQ(shown_reference("a\x1b[2Jb\r\n\x7f"), "a\\x1b[2Jb\\x0d\\x0a\\x7f");
  EXPECT_EQ(shown_reference("DATA:" + std::string(95, 'A')), "DATA:" + std::string(55, 'A') + "... (100 characters)");
}

TEST(DataUri, Loads) {
  MediaLimits limits;
  EXPECT_EQ(load_data_uri("data:image/png;base64,cGljdHVyZQ==", limits).value(), "picture");
  EXPECT_EQ(load_data_uri("DATA:;BASE64,cGljdHVyZQ%3D%3D", limits).value(), "picture");
  EXPECT_EQ(load_data_uri("data:,a%20b", limits).value(), "a b");
  EXPECT_EQ(load_data_uri("data:image/png", limits).error().code, ErrorCode::invalid_argument);
  limits.bytes_max = 100;
  EXPECT_EQ(load_data_uri("data:;base64," + std::string(400, 'A'), limits).error().code, ErrorCode::too_large);
  EXPECT_EQ(load_data_uri("data:," + std::string(101, 'A'), limits).error().code, ErrorCode::too_large);
}

TEST(FileUri, NamesAnAbsolutePath) {
  EXPECT_EQ(file_uri_path("file:///a%20b/%2e%2e/c").value(), "/a b/../c");
  EXPECT_EQ(file_uri_path("FILE://LocalHost/a").value(), "/a");
  EXPECT_EQ(file_uri_path("file:/a").value(), "/a");
  EXPECT_THAT(file_uri_path("file://host/a").error().message, HasSubstr("localhost"));
  for (const char* uri : {"file:", "file://", "file:a", "file://localhost", "file:///a%00b", "file:///a%2"})
    EXPECT_EQ(file_uri_path(uri).error().code, ErrorCode::invalid_argument) << uri;
}

/// A folder that may be read, "open", beside a file that may not, "secret".
class LoadBelow : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::canonical(::testing::TempDir()) / "keye load test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ / "open" / "sub");
    ASSERT_TRUE(write_file(folder_ / "open" / "a.bin", "picture").has_value());
    ASSERT_TRUE(write_file(folder_ / "secret", "secret").has_value());
    ASSERT_TRUE(write_file(folder_ / "open2", "secret").has_value());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Result<std::string> load(const Path& path) { return load_below(folder_ / "open", path, limits_); }
  ErrorCode refused(const Path& path) { return load(path).error().code; }

  Path folder_;
  MediaLimits limits_;
};

TEST_F(LoadBelow, ReadsFilesInside) {
  const Path open = folder_ / "open";
  EXPECT_EQ(load(open / "a.bin").value(), "picture");
  EXPECT_EQ(load(open.string() + "//a.bin").value(), "picture");
  EXPECT_EQ(load(open / "sub/../a.bin").value(), "picture");
  EXPECT_EQ(load_below(open / "", open / "a.bin", limits_).value(), "picture");
  EXPECT_EQ(load_below(std::filesystem::relative(open), open / "a.bin", limits_).value(), "picture");
  EXPECT_EQ(refused(open / "none"), ErrorCode::not_found);
  limits_.bytes_max = 6;
  EXPECT_EQ(refused(open / "a.bin"), ErrorCode::too_large);
}

TEST_F(LoadBelow, CVE_2025_6242_paths_elsewhere) {
  const Path open = folder_ / "open";
  for (const Path& path :
       {open / "../secret", open / "sub/../../secret", open / "..", folder_ / "secret", folder_ / "open2",
        Path("/etc/passwd"), Path("/"), open, Path("/proc/self/environ"), open / "../open/a.bin"}) {
    EXPECT_EQ(refused(path), ErrorCode::invalid_argument) << path;
  }
  // Nobody learns from the answer what there is.
  EXPECT_EQ(load(folder_ / "none").error().message, load(folder_ / "secret").error().message);
  EXPECT_EQ(load(open / "../none").error().message, load(open / "../secret").error().message);
  EXPECT_THAT(load(open / "../secret").error().to_string(), Not(HasSubstr(folder_.string())));
}

TEST_F(LoadBelow, CVE_2025_6242_links_that_lead_out) {
  const Path open = folder_ / "open";
  std::filesystem::create_symlink("../secret", open / "relative");
  std::filesystem::create_symlink(folder_ / "secret", open / "absolute");
  std::filesystem::create_symlink("..", open / "parent");
  std::filesystem::create_symlink("/proc/self/environ", open / "environ");
  std::filesystem::create_symlink("../none", open / "dangling");
  for (const char* name : {"relative", "absolute", "parent/secret", "environ", "dangling"})
    EXPECT_EQ(refused(open / name), ErrorCode::invalid_argument) << name;
  std::filesystem::create_symlink("a.bin", open / "inside");
  EXPECT_EQ(load(open / "inside").value(), "picture");
}

TEST_F(LoadBelow, TheFolderItselfMayBeALink) {
  std::filesystem::create_symlink("open", folder_ / "link");
  for (const char* name : {"link/a.bin", "open/a.bin"})
    EXPECT_EQ(load_below(folder_ / "link", folder_ / name, limits_).value(), "picture") << name;
  EXPECT_EQ(load_below(folder_ / "gone", folder_ / "gone/a.bin", limits_).error().code, ErrorCode::not_found);
}

TEST_F(LoadBelow, CVE_2025_6242_regular_files_only) {
  const Path open = folder_ / "open";
  ASSERT_EQ(::mkfifo((open / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(load(open / "pipe").error().message, HasSubstr("not a regular file"));
  EXPECT_THAT(load(open / "sub").error().message, HasSubstr("not a regular file"));
  EXPECT_THAT(load_below("/dev", "/dev/zero", limits_).error().message, HasSubstr("not a regular file"));
  for (const char* path : {"/proc/self/environ", "/proc/self/cmdline", "/sys/kernel/notes"})
    EXPECT_FALSE(load_below("/", path, limits_)) << path;
  EXPECT_THAT(load_below("/proc", "/proc/version", limits_).error().message, HasSubstr("not a regular file"));
}

/// Somebody swaps a file for a link that leads out, as fast as they can.
TEST_F(LoadBelow, CVE_2025_6242_files_swapped_meanwhile) {
  const Path open = folder_ / "open";
  std::filesystem::create_symlink("../secret", open / "link");
  ASSERT_TRUE(write_file(open / "file", "picture").has_value());
  std::jthread swapping([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      ::syscall(SYS_renameat2, AT_FDCWD, (open / "link").c_str(), AT_FDCWD, (open / "file").c_str(), RENAME_EXCHANGE);
    }
  });
  int read = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto bytes = load(open / "file");
    if (bytes) {
      ASSERT_EQ(*bytes, "picture");
      ++read;
    } else {
      ASSERT_NE(bytes.error().code, ErrorCode::not_found);
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace keye::media
