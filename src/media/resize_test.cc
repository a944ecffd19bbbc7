// Resizes against PIL's bytes, and the AVX2 kernels against the portable ones.
#include "media/resize.h"

#include <gtest/gtest.h>

#include <random>

#include "base/json.h"
#include "media/resize_kernels.h"
#include "media/testing.h"

namespace keye::media {
namespace {

Image pattern(int height, int width) {
  Image image(height, width);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) image.row(y)[3 * x + c] = static_cast<uint8_t>(y * 7 + x * 13 + c * 29 + y * x);
    }
  }
  return image;
}

TEST(Resize, EveryPairOfSizesAsPil) {
  const Json json = read_json("tests/golden/pictures/expected.json").value();
  ASSERT_GE(json["resizes"].size(), 100U);
  for (const Json& row : json["resizes"]) {
    SCOPED_TRACE(row.dump());
    const Image image = pattern(row[0], row[1]);
    const Image out = resize(image, row[2], row[3], static_cast<Resample>(row[4].get<int>()));
    EXPECT_EQ(out.height, row[2]);
    EXPECT_EQ(out.width, row[3]);
    EXPECT_EQ(testing::sha256(out), row[5]);
  }
}

/// Of 71 pairs of sizes no byte differs.
TEST(ResizeFrame, EveryPairOfSizesAsTorch) {
  const Json json = read_json("tests/golden/preprocess/frame_resizes.json").value();
  ASSERT_GE(json.size(), 70U);
  for (const Json& row : json) {
    SCOPED_TRACE(row.dump());
    const Image out = resize_frame(pattern(row[0], row[1]), row[2], row[3]);
    EXPECT_EQ(out.height, row[2]);
    EXPECT_EQ(out.width, row[3]);
    EXPECT_EQ(testing::sha256(out), row[4]);
  }
}

TEST(Resize, SameSizeIsACopy) {
  const Image image = pattern(31, 17);
  EXPECT_EQ(resize(image, 31, 17, Resample::bicubic).rgb, image.rgb);
}

TEST(Resize, FlatStaysFlat) {
  Image image(40, 30);
  std::fill(image.rgb.begin(), image.rgb.end(), uint8_t{201});
  for (const Resample filter : {Resample::bilinear, Resample::bicubic}) {
    for (const uint8_t byte : resize(image, 77, 9, filter).rgb) ASSERT_EQ(byte, 201);
  }
}

/// Both kernels on random rows, weights and counts, including the ends of rows where a whole vector does not fit.
TEST(ResizeKernels, FastestEqualsPortable) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    const int in_width = 1 + static_cast<int>(random() % 90);
    const int width = 1 + static_cast<int>(random() % 90);
    std::vector<uint8_t> in(static_cast<size_t>(in_width) * 3);
    for (uint8_t& byte : in) byte = static_cast<uint8_t>(random());
    constexpr size_t kStride = 16;
    std::vector<int32_t> first(static_cast<size_t>(width));
    std::vector<int32_t> count(first.size());
    std::vector<int32_t> weights(first.size() * kStride);
    for (size_t x = 0; x < first.size(); ++x) {
      first[x] = static_cast<int32_t>(random() % static_cast<uint32_t>(in_width));
      count[x] =
          static_cast<int32_t>(1 + random() % std::min<uint32_t>(14, static_cast<uint32_t>(in_width - first[x])));
      for (int32_t t = 0; t < count[x]; ++t) {
        weights[x * kStride + static_cast<size_t>(t)] = static_cast<int32_t>(random() % 1000000) - 300000;
      }
    }
    const Taps taps{first.data(), count.data(), weights.data(), kStride};
    std::vector<uint8_t> fast(first.size() * 3);
    std::vector<uint8_t> plain(fast.size());
    resize_kernels().row(in.data(), in_width, taps, fast.data(), width);
    portable_resize_kernels().row(in.data(), in_width, taps, plain.data(), width);
    ASSERT_EQ(fast, plain);

    std::vector<const uint8_t*> rows(14);
    for (const uint8_t*& row : rows) row = in.data();
    std::vector<uint8_t> fast_column(in.size());
    std::vector<uint8_t> plain_column(in.size());
    resize_kernels().column(rows.data(), weights.data(), count[0], fast_column.data(), in.size());
    portable_resize_kernels().column(rows.data(), weights.data(), count[0], plain_column.data(), in.size());
    ASSERT_EQ(fast_column, plain_column);
  }
}

}  // namespace
}  // namespace keye::media
