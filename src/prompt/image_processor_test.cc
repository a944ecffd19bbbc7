// Sizes, resized pictures and patches against the reference's (tests/golden/preprocess).
#include "prompt/image_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "media/decode.h"
#include "media/testing.h"
#include "prompt/smart_resize.h"
#include "tensor/safetensors.h"

namespace keye::prompt {
namespace {

using media::testing::sha256;
using ::testing::HasSubstr;

const Path kGoldens = "tests/golden/preprocess";

media::Image load_image(const std::string& file) {
  const std::string bytes = read_file(Path("tests/golden") / file).value();
  return media::decode_image(media::testing::bytes_of(bytes), {}).value();
}

ImageProcessorConfig parse(const Json& json) { return parse_image_processor_config(json, "config").value(); }

using SizeFunction = Result<PixelSize> (*)(int64_t, int64_t, int, double, double);

void compare_sizes(const Json& rows, SizeFunction function) {
  ASSERT_GT(rows.size(), 90U);
  for (const Json& row : rows) {
    SCOPED_TRACE(row.dump());
    const Result<PixelSize> size = function(row[0], row[1], 28, row[2], row[3]);
    if (row[4].is_string()) {
      ASSERT_FALSE(size.has_value());
      EXPECT_THAT(size.error().message, HasSubstr("aspect ratio"));
      EXPECT_THAT(size.error().message, HasSubstr("200"));
    } else {
      ASSERT_TRUE(size.has_value());
      EXPECT_EQ(size->height, row[4][0]);
      EXPECT_EQ(size->width, row[4][1]);
    }
  }
}

TEST(SmartResize, AsTheReference) {
  const Json json = read_json(kGoldens / "sizes.json").value();
  compare_sizes(json["server_resize"], server_resize);
  compare_sizes(json["processor_resize"], processor_resize);
}

TEST(SmartResize, PublishedVectors) {
  const auto size = [](int64_t height, int64_t width) {
    const PixelSize out = server_resize(height, width, 28, kServerMinPixels, kServerMaxPixels).value();
    return std::pair(out.height, out.width);
  };
  EXPECT_EQ(size(1080, 1920), std::pair(int64_t{1092}, int64_t{1932}));
  EXPECT_EQ(size(42, 70), std::pair(int64_t{56}, int64_t{56}));
  EXPECT_EQ(size(5000, 8000), std::pair(int64_t{3164}, int64_t{5068}));
  EXPECT_EQ(size(30, 2000), std::pair(int64_t{28}, int64_t{1988}));
}

TEST(SmartResize, SmallSidesAreEnlargedInTheSecond) {
  const PixelSize out = processor_resize(14, 100, 28, 1, 1e9).value();
  EXPECT_EQ(out.height, 28);
  EXPECT_EQ(out.width, 196);
}

TEST(ImageProcessor, GoldenPicturesToTheBit) {
  const Json json = read_json(kGoldens / "images.json").value();
  const TensorFile tensors = TensorFile::open(kGoldens / "images.safetensors").value();
  const ImageProcessor processor(parse(json["preprocessor"]));
  int pictures = 0;
  for (const Json& record : json["images"]) {
    const std::string file = record["file"];
    SCOPED_TRACE(file);
    const Result<media::Image> resized = processor.resize(load_image(file), {});
    if (record.contains("error")) {
      ASSERT_FALSE(resized.has_value());
      EXPECT_EQ(resized.error().code, ErrorCode::invalid_argument);
      EXPECT_THAT(resized.error().message, HasSubstr("the limit is 200"));
      continue;
    }
    ASSERT_TRUE(resized.has_value()) << resized.error().to_string();
    EXPECT_EQ(sha256(*resized), record["resized_sha256"]);
    const auto stored = tensors.tensors().find("resized." + file.substr(file.find('/') + 1));
    if (stored != tensors.tensors().end()) {
      ASSERT_EQ(stored->second.bytes(), resized->rgb.size());
      EXPECT_EQ(std::memcmp(stored->second.data, resized->rgb.data(), resized->rgb.size()), 0);
    }
    const ImagePatches patches = processor.prepare(load_image(file), {}).value();
    EXPECT_EQ(Json({1, patches.grid.rows, patches.grid.cols}), record["image_grid_thw"]);
    EXPECT_EQ(patches.pixel_values.shape(), Shape({int64_t{patches.grid.rows} * patches.grid.cols, 3, 14, 14}));
    EXPECT_EQ(sha256(patches.pixel_values.view().raw()), record["pixel_values"]["sha256_f32"]);
    ++pictures;
  }
  EXPECT_EQ(pictures, 15);
}

TEST(ImageProcessor, PatchOrder) {
  ImageProcessorConfig config;
  config.patch_size = 2;
  config.merge_size = 1;
  config.do_normalize = false;
  config.do_rescale = false;
  media::Image image(4, 6);
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i);
  const ImagePatches patches = ImageProcessor(config).patchify(image);
  EXPECT_EQ(patches.grid.rows, 2);
  EXPECT_EQ(patches.grid.cols, 3);
  const float* value = patches.pixel_values.as<float>();
  for (int patch = 0; patch < 6; ++patch) {
    for (int c = 0; c < 3; ++c) {
      for (int y = 0; y < 2; ++y) {
        for (int x = 0; x < 2; ++x) {
          const int row = patch / 3 * 2 + y;
          const int column = patch % 3 * 2 + x;
          ASSERT_EQ(*value++, static_cast<float>((row * 6 + column) * 3 + c));
        }
      }
    }
  }
}

TEST(ImageProcessor, OptionsOfARequest) {
  const ImageProcessor processor(ImageProcessorConfig{});
  const media::Image image = load_image("images/rgb_97x61.png");
  const auto grid = [&](const ImageOptions& options) {
    const ImagePatches patches = processor.prepare(image, options).value();
    return std::pair(patches.grid.rows, patches.grid.cols);
  };
  EXPECT_EQ(grid({}), std::pair(4, 6));
  ImageOptions larger;
  larger.min_pixels = 100'000;
  EXPECT_EQ(grid(larger), std::pair(18, 30));  // ceil(61 * beta / 28), ceil(97 * beta / 28), beta = sqrt(1e5 / 5917)
  ImageOptions smaller;
  smaller.min_pixels = 1;
  smaller.max_pixels = 784;
  EXPECT_EQ(grid(smaller).first * grid(smaller).second * 196, 3136);  // the checkpoint's own minimum follows
  ImageOptions sized;
  sized.resized_height = 300;
  sized.resized_width = 210;
  EXPECT_EQ(grid(sized), std::pair(22, 16));  // 10.7 -> 11 and 7.5 -> 8 merged patches
}

TEST(ImageProcessor, AbsurdOptionsAreRefusedByName) {
  const ImageProcessor processor(ImageProcessorConfig{});
  const auto error = [&](ImageOptions options) {
    return processor.prepare(media::Image(40, 40), options).error().to_string();
  };
  EXPECT_THAT(error({.min_pixels = 0}), HasSubstr("min_pixels"));
  EXPECT_THAT(error({.max_pixels = int64_t{1} << 40}), HasSubstr("max_pixels"));
  EXPECT_THAT(error({.min_pixels = 5000, .max_pixels = 4000}), HasSubstr("is more than max_pixels"));
  EXPECT_THAT(error({.factor = 0}), HasSubstr("factor"));
  EXPECT_THAT(error({.resized_height = 100}), HasSubstr("resized_width"));
  EXPECT_THAT(error({.resized_height = 100000, .resized_width = 28}), HasSubstr("resized_height"));
  EXPECT_THAT(error({.resized_height = 10000, .resized_width = 28}), HasSubstr("aspect ratio"));
}

TEST(ImageProcessor, ShrinkingToNothingIsAnError) {
  ImageProcessorConfig config;
  config.min_pixels = 1;
  config.max_pixels = 784;
  const auto prepared = ImageProcessor(config).prepare(media::Image(30, 5000), {});
  ASSERT_FALSE(prepared.has_value());
  EXPECT_THAT(prepared.error().message, HasSubstr("too long for max_pixels"));
}

TEST(ImageProcessor, SecondResizeUsesTheCheckpointsFilter) {
  ImageProcessorConfig config;
  config.max_pixels = 28 * 28 * 4;
  const media::Image image = load_image("images/large_1600x1200.png");
  const media::Image cubic = ImageProcessor(config).resize(image, {}).value();
  config.resample = media::Resample::bilinear;
  const media::Image linear = ImageProcessor(config).resize(image, {}).value();
  EXPECT_EQ(cubic.rgb.size(), linear.rgb.size());
  EXPECT_NE(cubic.rgb, linear.rgb);
  config.do_resize = false;
  const media::Image whole = ImageProcessor(config).resize(image, {}).value();
  EXPECT_EQ(whole.height, 1204);
  EXPECT_EQ(whole.width, 1596);
}

TEST(ImageProcessorConfig, ReadsEveryField) {
  const ImageProcessorConfig config = parse(Json::parse(
      R"({"image_processor_type": "SomethingElse", "do_resize": false, "do_rescale": true, "do_normalize": false, "resample": 2,
          "rescale_factor": 0.5, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "patch_size": 16, "merge_size": 4,
          "temporal_patch_size": 1, "size": {"shortest_edge": 5000, "longest_edge": 90000}, "video_min_pixels": 3136,
          "video_max_pixels": 7056, "video_total_pixels": 70560, "do_center_crop": false, "do_convert_rgb": null})"));
  EXPECT_FALSE(config.do_resize);
  EXPECT_FALSE(config.do_normalize);
  EXPECT_EQ(config.resample, media::Resample::bilinear);
  EXPECT_EQ(config.rescale_factor, 0.5);
  EXPECT_EQ(config.image_mean[1], 0.2F);
  EXPECT_EQ(config.image_std[2], 3.0F);
  EXPECT_EQ(config.factor(), 64);
  EXPECT_EQ(config.min_pixels, 5000);
  EXPECT_EQ(config.max_pixels, 90000);
  EXPECT_EQ(config.video_total_pixels, 70560);
  EXPECT_EQ(parse(Json::object()).max_pixels, 1003520);
  EXPECT_EQ(parse(Json::parse(R"({"max_pixels": 4000, "size": {"longest_edge": 90000}})")).max_pixels, 4000);
}

TEST(ImageProcessorConfig, RefusesWhatItDoesNotDo) {
  const auto error = [](const char* text) {
    const auto config = parse_image_processor_config(Json::parse(text), "preprocessor_config.json");
    return config.has_value() ? std::string("no error") : config.error().to_string();
  };
  EXPECT_THAT(error(R"({"temporal_patch_size": 2})"), HasSubstr("temporal_patch_size: expected 1"));
  EXPECT_THAT(error(R"({"resample": 1})"), HasSubstr("resample: expected 3 (bicubic)"));
  EXPECT_THAT(error(R"({"do_center_crop": true})"), HasSubstr("do_center_crop"));
  EXPECT_THAT(error(R"({"do_resize": "yes"})"), HasSubstr("do_resize: expected true or false, got \"yes\""));
  EXPECT_THAT(error(R"({"patch_size": 0})"), HasSubstr("patch_size"));
  EXPECT_THAT(error(R"({"patch_size": 14.5})"), HasSubstr("patch_size"));
  EXPECT_THAT(error(R"({"min_pixels": 18446744073709551615})"), HasSubstr("min_pixels"));
  EXPECT_THAT(error(R"({"min_pixels": 9000, "max_pixels": 8000})"), HasSubstr("more than max_pixels"));
  EXPECT_THAT(error(R"({"image_std": [0.5, 0, 0.5]})"), HasSubstr("image_std"));
  EXPECT_THAT(error(R"({"image_mean": [0.5]})"), HasSubstr("image_mean"));
  EXPECT_THAT(error(R"({"rescale_factor": 0})"), HasSubstr("rescale_factor"));
  EXPECT_THAT(error(R"({"size": 5})"), HasSubstr("size"));
  EXPECT_THAT(error(R"([])"), HasSubstr("object"));
}

/// A digest that left any of these out would let one picture's features, and KV pages, stand for another's.
TEST(ImageProcessor, CVE_2025_46722_digests_tell_pixels_shape_and_preprocessing) {
  const Json plain = Json::object();
  const auto digest = [](const Json& config, const media::Image& image) {
    return ImageProcessor(parse(config)).content_digest(image);
  };
  media::Image wide(56, 112);
  for (size_t i = 0; i < wide.rgb.size(); ++i) wide.rgb[i] = static_cast<uint8_t>(i * 7);
  const Digest reference = digest(plain, wide);
  EXPECT_EQ(reference, digest(plain, wide));

  media::Image other = wide;
  other.rgb.back() ^= 1;
  EXPECT_NE(reference, digest(plain, other)) << "one bit of one pixel";
  media::Image tall = wide;
  std::swap(tall.height, tall.width);
  EXPECT_NE(reference, digest(plain, tall)) << "the same bytes in another shape";
  media::Image square = wide;
  square.height = square.width = 28;
  square.rgb.resize(size_t{28} * 28 * 3);
  EXPECT_NE(reference, digest(plain, square));

  for (const Json& config : {Json{{"image_mean", {0.4, 0.5, 0.5}}}, Json{{"image_std", {0.5, 0.5, 0.4}}},
                             Json{{"rescale_factor", 0.01}}, Json{{"do_normalize", false}}, Json{{"do_rescale", false}},
                             Json{{"patch_size", 28}, {"merge_size", 1}}, Json{{"merge_size", 1}}}) {
    EXPECT_NE(reference, digest(config, wide)) << config.dump();
  }
}

}  // namespace
}  // namespace keye::prompt
