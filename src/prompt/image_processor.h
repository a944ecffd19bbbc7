// Pictures to what the vision encoder takes: resized, normalised, cut into patches.
#pragma once

#include <array>
#include <optional>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/result.h"
#include "media/image.h"
#include "media/resize.h"
#include "tensor/tensor.h"

namespace keye::prompt {

/// preprocessor_config.json. Fields that it leaves out have the values below, those of the public Keye-VL-8B-Preview
/// checkpoint; fields that are not named here (image_processor_type among them) are not looked at.
struct ImageProcessorConfig {
  bool do_resize = true;
  bool do_rescale = true;
  bool do_normalize = true;
  media::Resample resample = media::Resample::bicubic;
  double rescale_factor = 1.0 / 255;
  std::array<float, 3> image_mean{0.5F, 0.5F, 0.5F};
  std::array<float, 3> image_std{0.5F, 0.5F, 0.5F};
  int patch_size = 14;
  int merge_size = 2;
  /// Of the second resize; from min_pixels and max_pixels, or from size.shortest_edge and size.longest_edge.
  int64_t min_pixels = 3136;
  int64_t max_pixels = 1'003'520;
  /// Limits of a video's frames, in place of the model's own.
  std::optional<int64_t> video_min_pixels;
  std::optional<int64_t> video_max_pixels;
  std::optional<int64_t> video_total_pixels;

  int factor() const { return patch_size * merge_size; }
};

/// Errors: invalid_argument (a field of the wrong type or out of range), unsupported (a value that this program does
/// not do: temporal patches, cropping, padding, other filters), each naming the field.
Result<ImageProcessorConfig> parse_image_processor_config(const Json& json, std::string_view where);

/// What a request may say about one picture; what it leaves out has the server's defaults (prompt/smart_resize.h).
struct ImageOptions {
  std::optional<int64_t> min_pixels{};
  std::optional<int64_t> max_pixels{};
  std::optional<int> factor{};
  /// Both or none: a size to use, rounded as a picture of that size would be, in place of the picture's own.
  std::optional<int> resized_height{};
  std::optional<int> resized_width{};
};

struct PatchGrid {
  int rows = 0;
  int cols = 0;
  int patches() const { return rows * cols; }
};

/// One picture, cut. The patches' order is row-major, within a patch channel, row, column.
struct ImagePatches {
  Tensor pixel_values;  // f32 [grid.patches(), 3, patch, patch]
  PatchGrid grid;
};

class ImageProcessor {
 public:
  /// No limit that a request or a checkpoint names, and no resized picture, may have more pixels.
  static constexpr int64_t kPixelsMax = int64_t{1} << 26;

  explicit ImageProcessor(const ImageProcessorConfig& config);
  /// Reads preprocessor_config.json of a checkpoint folder.
  static Result<ImageProcessor> load(const Path& folder);

  const ImageProcessorConfig& config() const { return config_; }
  /// Tokens that stand for a picture in the prompt: one for every merge_size * merge_size patches.
  int tokens(const PatchGrid& grid) const { return grid.patches() / (config_.merge_size * config_.merge_size); }

  /// The two resizes: the server's, then the checkpoint's. Errors: invalid_argument, too_large.
  Result<media::Image> resize(media::Image image, const ImageOptions& options) const;
  /// resize, then patchify. Errors: those of resize.
  Result<ImagePatches> prepare(media::Image image, const ImageOptions& options) const;
  /// Normalises and cuts a picture (or one frame of a video) whose sides are multiples of config().factor().
  ImagePatches patchify(const media::Image& image) const;
  PatchGrid grid(const media::Image& image) const;
  /// Names what patchify gives: the pixels, the grid and the arithmetic.
  Digest content_digest(const media::Image& image) const;

 private:
  ImageProcessorConfig config_;
  /// A channel's byte to its normalised value: all that normalisation does.
  std::array<std::array<float, 256>, 3> normalised_{};
};

}  // namespace keye::prompt
