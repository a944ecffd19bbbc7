// Every sample picture against PIL's bytes (tests/golden/pictures, tests/golden/images), and what damaged ones do.
#include "media/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/json.h"
#include "media/sniff.h"
#include "media/testing.h"

namespace keye::media {
namespace {

using testing::bytes_of;
using ::testing::HasSubstr;
using testing::sha256;

const Path kPictures = "tests/golden/pictures";

struct Sample {
  std::string name;
  std::string bytes;
  Json expected;
};

const std::vector<Sample>& samples() {
  static const std::vector<Sample> kSamples = [] {
    std::vector<Sample> list;
    const Json json = read_json(kPictures / "expected.json").value();
    for (const auto& [name, expected] : json["pictures"].items()) {
      list.push_back({name, read_file(kPictures / name).value(), expected});
    }
    return list;
  }();
  return kSamples;
}

/// Small enough that whatever damaged files claim stays quick.
MediaLimits small_limits() {
  MediaLimits limits;
  limits.pixels_max = 1 << 20;
  return limits;
}

TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256(bytes_of("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Decode, EverySampleAsPil) {
  int pictures = 0;
  for (const Sample& sample : samples()) {
    SCOPED_TRACE(sample.name);
    const Result<Image> image = decode_image(bytes_of(sample.bytes), {});
    if (sample.expected.contains("refused")) {
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(image.error().code, ErrorCode::unsupported);
      EXPECT_THAT(image.error().message, HasSubstr("JPEG, PNG, WebP, GIF, BMP and TIFF"));
      continue;
    }
    ASSERT_TRUE(image.has_value()) << image.error().to_string();
    EXPECT_EQ(image->height, sample.expected["size_hw"][0]);
    EXPECT_EQ(image->width, sample.expected["size_hw"][1]);
    EXPECT_EQ(sha256(*image), sample.expected["sha256"]);
    ++pictures;
  }
  EXPECT_EQ(pictures, 126);
}

TEST(Decode, GoldenImagesAsPil) {
  const Json json = read_json("tests/golden/preprocess/images.json").value();
  for (const Json& record : json["images"]) {
    const std::string file = record["file"];
    SCOPED_TRACE(file);
    const std::string bytes = read_file(Path("tests/golden") / file).value();
    const Result<Image> image = decode_image(bytes_of(bytes), {});
    ASSERT_TRUE(image.has_value()) << image.error().to_string();
    EXPECT_EQ(image->height, record["decoded_hw"][0]);
    EXPECT_EQ(image->width, record["decoded_hw"][1]);
    EXPECT_EQ(sha256(*image), record["decoded_rgb_sha256"]);
  }
}

/// Cut at every 7th byte: an error, or the whole picture where only what follows its last row is missing. Which of the
/// two is as PIL has it, but for TIFF, whose directory at the end must be whole here.
TEST(Decode, CutFilesAreNoHalfPictures) {
  for (const Sample& sample : samples()) {
    if (sample.expected.contains("refused")) continue;
    SCOPED_TRACE(sample.name);
    const bool tiff = sniff_image(bytes_of(sample.bytes)).value().format == ImageFormat::tiff;
    std::vector<size_t> opened;
    for (size_t length = 0; length < sample.bytes.size(); length += 7) {
      const Result<Image> image = decode_image(bytes_of(sample.bytes).first(length), {});
      if (!image) continue;
      opened.push_back(length);
      EXPECT_EQ(sha256(*image), sample.expected["sha256"]) << "cut at " << length;
    }
    const auto cuts = sample.expected["cuts_that_open"].get<std::vector<size_t>>();
    if (tiff) {
      EXPECT_LE(opened.size(), cuts.size());
    } else {
      EXPECT_EQ(opened, cuts);
    }
  }
}

TEST(Decode, DamagedFilesEndWell) {
  std::mt19937 random(7);
  int errors = 0;
  for (const Sample& sample : samples()) {
    for (int round = 0; round < 40; ++round) {
      std::string bytes = sample.bytes;
      const uint32_t changes = 1 + random() % 8;
      for (uint32_t i = 0; i < changes; ++i) {
        // Half of the changes hit the first 64 bytes, where headers are.
        const size_t span = random() % 2 == 0 ? std::min<size_t>(64, bytes.size()) : bytes.size();
        bytes[random() % span] = static_cast<char>(random());
      }
      const Result<Image> image = decode_image(bytes_of(bytes), small_limits());
      if (!image) {
        ++errors;
        EXPECT_FALSE(image.error().message.empty());
      }
    }
  }
  EXPECT_GT(errors, 1000);
}

/// A sample of the format, its size (found as little- or big-endian numbers at `offsets`) replaced.
struct Header {
  const char* prefix;
  size_t width_at;
  size_t height_at;
  int bytes;
  bool big_endian;
};

std::string resized_header(const std::string& file, const Header& header, uint32_t width, uint32_t height) {
  std::string bytes = file;
  const auto put = [&](size_t at, uint32_t value) {
    for (int i = 0; i < header.bytes; ++i) {
      const int shift = 8 * (header.big_endian ? header.bytes - 1 - i : i);
      bytes[at + static_cast<size_t>(i)] = static_cast<char>(value >> shift);
    }
  };
  put(header.width_at, width);
  put(header.height_at, height);
  return bytes;
}

TEST(Decode, LyingSizesAreRefusedBeforeMemoryIsTaken) {
  constexpr Header kHeaders[] = {
      {"png_raw_00.png", 16, 20, 4, true}, {"bmp_00.bmp", 18, 22, 4, false}, {"gif_00.gif", 6, 8, 2, false}};
  for (const Header& header : kHeaders) {
    SCOPED_TRACE(header.prefix);
    const std::string file = read_file(kPictures / header.prefix).value();
    for (const uint32_t side : {65535U, 0x7fffffffU}) {
      if (header.bytes == 2 && side > 65535) continue;
      const auto image = decode_image(bytes_of(resized_header(file, header, side, side)), {});
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(image.error().code, ErrorCode::too_large) << image.error().to_string();
    }
    // Within the limits but not what the file holds: an error all the same.
    const auto larger = decode_image(bytes_of(resized_header(file, header, 1000, 900)), small_limits());
    if (header.prefix != std::string_view("gif_00.gif")) {  // a GIF's canvas may be larger than its frame
      EXPECT_FALSE(larger.has_value());
    }
    if (header.prefix != std::string_view("gif_00.gif")) {
      const auto empty = decode_image(bytes_of(resized_header(file, header, 0, 5)), {});
      ASSERT_FALSE(empty.has_value());
      EXPECT_EQ(empty.error().code, ErrorCode::corrupt_data);
    }
  }
}

TEST(Decode, LyingJpegWebpAndTiffSizes) {
  std::string jpeg = read_file("tests/golden/images/baseline420_91x77.jpg").value();
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xff\xff\xff");
  EXPECT_EQ(decode_image(bytes_of(jpeg), {}).error().code, ErrorCode::too_large);
  jpeg.replace(frame + 5, 4, std::string(4, '\0'));
  EXPECT_EQ(decode_image(bytes_of(jpeg), {}).error().code, ErrorCode::corrupt_data);

  const std::string webp =
      std::string("RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff", 30) + "VP8 ";
  EXPECT_EQ(decode_image(bytes_of(webp), {}).error().code, ErrorCode::too_large);

  // A directory of two entries: width and height, 4 bytes each.
  const std::string tiff(
      "II\x2a\0\x08\0\0\0\x02\0\0\x01\x04\0\1\0\0\0\xff\xff\xff\x7f\x01\x01\x04\0\1\0\0\0\xff\xff\xff\x7f\0\0\0\0", 38);
  EXPECT_EQ(decode_image(bytes_of(tiff), {}).error().code, ErrorCode::too_large);
}

TEST(Decode, LimitsAreTheCallers) {
  const std::string bytes = read_file("tests/golden/images/rgb_97x61.png").value();
  MediaLimits limits;
  limits.bytes_max = bytes.size() - 1;
  EXPECT_EQ(decode_image(bytes_of(bytes), limits).error().code, ErrorCode::too_large);
  limits = {};
  limits.pixels_max = 97 * 61 - 1;
  EXPECT_THAT(decode_image(bytes_of(bytes), limits).error().message, HasSubstr("97 x 61 is 5917 pixels"));
  limits.pixels_max = 97 * 61;
  EXPECT_TRUE(decode_image(bytes_of(bytes), limits).has_value());
  limits.side_max = 96;
  EXPECT_EQ(decode_image(bytes_of(bytes), limits).error().code, ErrorCode::too_large);
}

TEST(Decode, TwelveBitAndOddJpegsAreRefusedByName) {
  std::string jpeg = read_file("tests/golden/images/baseline420_91x77.jpg").value();
  const size_t frame = jpeg.find("\xff\xc0");
  jpeg[frame + 4] = 12;
  EXPECT_THAT(decode_image(bytes_of(jpeg), {}).error().message, HasSubstr("12 bits a sample"));
  jpeg[frame + 4] = 8;
  jpeg[frame + 9] = 2;
  EXPECT_THAT(decode_image(bytes_of(jpeg), {}).error().message, HasSubstr("2 components"));
  jpeg[frame + 9] = 3;
  jpeg[frame + 1] = '\xc3';
  EXPECT_THAT(decode_image(bytes_of(jpeg), {}).error().message, HasSubstr("lossless"));
}

TEST(Sniff, NamesWhatIsNotSupported) {
  const auto message = [](std::string_view bytes) {
    return sniff_image(std::as_bytes(std::span(bytes))).error().message;
  };
  using namespace std::string_view_literals;
  EXPECT_THAT(message("\0\0\0\x20"
                      "ftypavif"sv),
              HasSubstr("AVIF"));
  EXPECT_THAT(message("\0\0\0\x20"
                      "ftypheic"sv),
              HasSubstr("HEIC"));
  EXPECT_THAT(message("\0\0\0\x20"
                      "ftypisom"sv),
              HasSubstr("MP4"));
  EXPECT_THAT(message("8BPS\0\1"sv), HasSubstr("PSD"));
  EXPECT_THAT(message("<!DOCTYPE html>"sv), HasSubstr("HTML"));
  EXPECT_THAT(message(""sv), HasSubstr("empty"));
  EXPECT_THAT(message("plain text"sv), HasSubstr("no known picture format"));
}

}  // namespace
}  // namespace keye::media
