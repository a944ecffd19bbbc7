#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"
#include "media/fetch.h"
#include "media/load.h"

namespace keye::media {
namespace {

using ::testing::HasSubstr;

/// A folder with a file, a pipe and a link that leads out.
class FetchFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::canonical(::testing::TempDir()) / "keye fetch test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ / "open");
    ASSERT_TRUE(write_file(folder_ / "open" / "a%20b.bin", "picture").has_value());
    ASSERT_TRUE(write_file(folder_ / "secret", "secret").has_value());
    ASSERT_EQ(::mkfifo((folder_ / "open" / "pipe").c_str(), 0600), 0);
    std::filesystem::create_symlink("../secret", folder_ / "open" / "link");
    uri_ = "file://" + folder_.parent_path().string() + "/keye%20fetch%20test/";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Result<std::string> fetch(const std::string& reference) const { return fetch_media(reference, policy_, limits_); }
  Error refused(const std::string& reference) const {
    const auto bytes = fetch(reference);
    EXPECT_FALSE(bytes) << reference;
    if (bytes) return {ErrorCode::internal, "read", reference};
    EXPECT_EQ(bytes.error().where, shown_reference(reference));
    return bytes.error();
  }

  FetchPolicy policy_;
  MediaLimits limits_;
  Path folder_;
  std::string uri_;
};

/// Clips are opened, not read, under the same policy.
TEST_F(FetchFilesTest, ClipsAreOpenedUnderThePolicy) {
  const auto bytes_of = [&](const std::string& reference, int64_t most = 100) {
    const auto clip = fetch_clip(reference, policy_, most);
    if (clip) return clip->bytes();
    EXPECT_EQ(clip.error().where, shown_reference(reference));
    return int64_t{-static_cast<int>(clip.error().code) - 1};
  };
  const auto code = [](ErrorCode error) { return int64_t{-static_cast<int>(error) - 1}; };
  const std::string path = (folder_ / "open/a%20b.bin").string();
  EXPECT_EQ(bytes_of("data:video/mp4;base64,cGljdHVyZQ=="), 7);
  for (const std::string& reference : {path, uri_ + "open/a%2520b.bin"})
    EXPECT_EQ(bytes_of(reference), code(ErrorCode::unsupported)) << reference;
  policy_.local_root = folder_ / "open";
  EXPECT_EQ(bytes_of(uri_ + "open/a%2520b.bin"), 7);
  EXPECT_EQ(bytes_of(path), code(ErrorCode::unsupported));
  EXPECT_EQ(bytes_of(uri_ + "secret"), code(ErrorCode::invalid_argument));
  EXPECT_LT(bytes_of(uri_ + "open/link"), 0);
  EXPECT_LT(bytes_of(uri_ + "open/pipe"), 0);
  policy_.any_path = true;
  EXPECT_EQ(bytes_of(path), 7);
  EXPECT_EQ(bytes_of(path, 6), code(ErrorCode::too_large));
  EXPECT_EQ(bytes_of((folder_ / "none").string()), code(ErrorCode::not_found));
  for (const std::string& bad : {std::string(), std::string("a\0b", 3), std::string("file://host/a")})
    EXPECT_EQ(bytes_of(bad), code(ErrorCode::invalid_argument)) << bad;
}

TEST_F(FetchFilesTest, ACommandLineReadsAnyPath) {
  policy_.any_path = true;
  EXPECT_EQ(fetch((folder_ / "open/a%20b.bin").string()).value(), "picture");
  EXPECT_EQ(fetch(uri_ + "open/a%2520b.bin").value(), "picture");
  EXPECT_EQ(fetch(uri_ + "open/link").value(), "secret");
  EXPECT_EQ(refused((folder_ / "none").string()).code, ErrorCode::not_found);
  EXPECT_EQ(refused(folder_.string()).code, ErrorCode::io);
  for (const std::string& path : {std::string(), std::string("a\0b", 3), std::string("file://host/a")})
    EXPECT_EQ(refused(path).code, ErrorCode::invalid_argument) << path;
  for (const char* uri : {"ftp://host/a.png", "s3://bucket/a.png"})
    EXPECT_THAT(refused(uri).message, HasSubstr("known are http://, https://, file:// and data:"));
  limits_.bytes_max = 6;
  EXPECT_EQ(refused((folder_ / "open/a%20b.bin").string()).code, ErrorCode::too_large);
}

TEST_F(FetchFilesTest, CVE_2025_6242_no_files_unless_allowed) {
  for (const std::string& reference :
       {uri_ + "open/a%2520b.bin", (folder_ / "secret").string(), std::string("/etc/passwd"), std::string("secret"),
        std::string(), std::string("s3://bucket/a")})
    EXPECT_EQ(refused(reference).code, ErrorCode::unsupported) << reference;
}

TEST_F(FetchFilesTest, CVE_2025_6242_files_below_one_folder) {
  policy_.local_root = folder_ / "open";
  EXPECT_EQ(fetch(uri_ + "open/a%2520b.bin").value(), "picture");
  EXPECT_EQ(refused((folder_ / "open/a%20b.bin").string()).code, ErrorCode::unsupported);
  for (const char* path : {"open/../secret", "open/%2e%2e/secret", "open%2f..%2fsecret", "secret", "open/link",
                           "open/..", "open/%2e%2e/open/a%2520b.bin"})
    EXPECT_EQ(refused(uri_ + path).code, ErrorCode::invalid_argument) << path;
  for (const char* uri : {"file:///proc/self/environ", "file:///etc/passwd", "file:///dev/zero", "file://host/a"})
    EXPECT_EQ(refused(uri).code, ErrorCode::invalid_argument) << uri;
  for (const char* path : {"open/pipe", "open/"}) EXPECT_FALSE(fetch(uri_ + path)) << path;
  EXPECT_EQ(refused(uri_ + "open/none").code, ErrorCode::not_found);
}

}  // namespace
}  // namespace keye::media
