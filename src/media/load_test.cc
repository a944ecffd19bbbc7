#include "media/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"

namespace keye::media {
namespace {

using ::testing::HasSubstr;

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

class Load : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / "keye load test";
    std::filesystem::create_directories(folder_);
    ASSERT_TRUE(write_file(folder_ / "a%20b.bin", "picture").has_value());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Path folder_;
  MediaLimits limits_;
};

TEST_F(Load, Paths) {
  EXPECT_EQ(load_media_bytes((folder_ / "a%20b.bin").string(), limits_).value(), "picture");
  EXPECT_EQ(load_media_bytes((folder_ / "none").string(), limits_).error().code, ErrorCode::not_found);
  EXPECT_EQ(load_media_bytes(folder_.string(), limits_).error().code, ErrorCode::io);
  limits_.bytes_max = 6;
  EXPECT_EQ(load_media_bytes((folder_ / "a%20b.bin").string(), limits_).error().code, ErrorCode::too_large);
}

TEST_F(Load, FileUris) {
  const std::string path = folder_.parent_path().string() + "/keye%20load%20test/a%2520b.bin";
  EXPECT_EQ(load_media_bytes("file://" + path, limits_).value(), "picture");
  EXPECT_EQ(load_media_bytes("FILE://localhost" + path, limits_).value(), "picture");
  EXPECT_EQ(load_media_bytes("file:" + path, limits_).value(), "picture");
  EXPECT_THAT(load_media_bytes("file://host" + path, limits_).error().message, HasSubstr("localhost"));
  EXPECT_EQ(load_media_bytes("file:///a%00b", limits_).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(load_media_bytes("file://", limits_).error().code, ErrorCode::invalid_argument);
}

TEST_F(Load, DataUris) {
  EXPECT_EQ(load_media_bytes("data:image/png;base64,cGljdHVyZQ==", limits_).value(), "picture");
  EXPECT_EQ(load_media_bytes("DATA:;BASE64,cGljdHVyZQ%3D%3D", limits_).value(), "picture");
  EXPECT_EQ(load_media_bytes("data:,a%20b", limits_).value(), "a b");
  EXPECT_EQ(load_media_bytes("data:image/png", limits_).error().code, ErrorCode::invalid_argument);
  limits_.bytes_max = 100;
  EXPECT_EQ(load_media_bytes("data:;base64," + std::string(400, 'A'), limits_).error().code, ErrorCode::too_large);
  EXPECT_EQ(load_media_bytes("data:," + std::string(101, 'A'), limits_).error().code, ErrorCode::too_large);
}

TEST_F(Load, OtherSchemesAreRefusedByName) {
  for (const char* uri : {"http://host/a.png", "https://host/a.png", "ftp://host/a.png", "s3://bucket/a.png"}) {
    const Error error = load_media_bytes(uri, limits_).error();
    EXPECT_EQ(error.code, ErrorCode::unsupported);
    EXPECT_THAT(error.message, HasSubstr("data: URIs"));
  }
  EXPECT_EQ(load_media_bytes("", limits_).error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace keye::media
