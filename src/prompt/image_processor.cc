#include "prompt/image_processor.h"

#include <cmath>

#include "base/check.h"
#include "prompt/smart_resize.h"

namespace keye::prompt {
namespace {

/// Typed, checked access to the fields of preprocessor_config.json.
class Fields {
 public:
  Fields(const Json& json, std::string_view where) : json_(json), where_(where) {}

  /// The value, or nothing if the field is missing or null.
  const Json* find(const char* name) const {
    const auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  template <class... Args>
  Error wrong(std::string_view name, fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::invalid_argument, fmt::format("{}: {}", where_, name), format,
                      std::forward<Args>(args)...);
  }
  template <class... Args>
  Error unsupported(std::string_view name, fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::unsupported, fmt::format("{}: {}", where_, name), format, std::forward<Args>(args)...);
  }

  Result<bool> boolean(const char* name, bool otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return wrong(name, "expected true or false, got {}", value->dump());
    return value->get<bool>();
  }

  Result<std::optional<int64_t>> integer(const char* name, int64_t low, int64_t high) const {
    const Json* value = find(name);
    if (value == nullptr) return std::optional<int64_t>();
    const bool whole =
        value->is_number_integer() && (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX);
    if (!whole || value->get<int64_t>() < low || value->get<int64_t>() > high) {
      return wrong(name, "expected a whole number from {} to {}, got {}", low, high, value->dump());
    }
    return std::optional<int64_t>(value->get<int64_t>());
  }

  Result<std::array<float, 3>> channels(const char* name, const std::array<float, 3>& otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    std::array<float, 3> numbers{};
    bool good = value->is_array() && value->size() == 3;
    for (size_t c = 0; good && c < 3; ++c) {
      good = (*value)[c].is_number() && std::isfinite((*value)[c].get<float>());
      if (good) numbers[c] = (*value)[c].get<float>();
    }
    if (!good) return wrong(name, "expected a list of three numbers, got {}", value->dump());
    return numbers;
  }

 private:
  const Json& json_;
  std::string_view where_;
};

/// What stands in the file but is not done here must not be wished for.
Result<void> check_not_wished(const Fields& fields) {
  for (const char* name : {"do_center_crop", "do_pad"}) {
    KEYE_TRY(const bool wished, fields.boolean(name, false));
    if (wished) return fields.unsupported(name, "only pictures that are neither cropped nor padded");
  }
  KEYE_TRY(const auto temporal, fields.integer("temporal_patch_size", 1, 1024));
  if (temporal.value_or(1) != 1) {
    return fields.unsupported("temporal_patch_size", "expected 1 (every frame has its own patches), got {}", *temporal);
  }
  // Pictures are RGB when they get here, so that either value does the same.
  KEYE_TRY_VOID(fields.boolean("do_convert_rgb", true));
  return {};
}

Result<void> parse_limits(const Fields& fields, std::string_view where, ImageProcessorConfig& config) {
  constexpr int64_t kMax = ImageProcessor::kPixelsMax;
  if (const Json* size = fields.find("size"); size != nullptr) {
    if (!size->is_object()) return fields.wrong("size", "expected an object, got {}", size->dump());
    const std::string place = fmt::format("{}: size", where);
    const Fields edges(*size, place);
    KEYE_TRY(const auto shortest, edges.integer("shortest_edge", 1, kMax));
    KEYE_TRY(const auto longest, edges.integer("longest_edge", 1, kMax));
    config.min_pixels = shortest.value_or(config.min_pixels);
    config.max_pixels = longest.value_or(config.max_pixels);
  }
  KEYE_TRY(const auto min_pixels, fields.integer("min_pixels", 1, kMax));
  KEYE_TRY(const auto max_pixels, fields.integer("max_pixels", 1, kMax));
  config.min_pixels = min_pixels.value_or(config.min_pixels);
  config.max_pixels = max_pixels.value_or(config.max_pixels);
  if (config.min_pixels > config.max_pixels) {
    return fields.wrong("min_pixels", "{} is more than max_pixels, {}", config.min_pixels, config.max_pixels);
  }
  KEYE_TRY(config.video_min_pixels, fields.integer("video_min_pixels", 1, kMax));
  KEYE_TRY(config.video_max_pixels, fields.integer("video_max_pixels", 1, kMax));
  KEYE_TRY(config.video_total_pixels, fields.integer("video_total_pixels", 1, int64_t{1} << 40));
  return {};
}

Error bad_option(std::string_view name, int64_t value, int64_t low, int64_t high) {
  return make_error(ErrorCode::invalid_argument, name, "expected {} to {}, got {}", low, high, value);
}

Result<void> check_options(const ImageOptions& options) {
  constexpr int64_t kMax = ImageProcessor::kPixelsMax;
  const auto check = [](std::string_view name, std::optional<int64_t> value, int64_t high) -> Result<void> {
    if (value && (*value < 1 || *value > high)) return bad_option(name, *value, 1, high);
    return {};
  };
  KEYE_TRY_VOID(check("min_pixels", options.min_pixels, kMax));
  KEYE_TRY_VOID(check("max_pixels", options.max_pixels, kMax));
  KEYE_TRY_VOID(check("factor", options.factor, 4096));
  KEYE_TRY_VOID(check("resized_height", options.resized_height, 65536));
  KEYE_TRY_VOID(check("resized_width", options.resized_width, 65536));
  if (options.resized_height.has_value() != options.resized_width.has_value()) {
    return make_error(ErrorCode::invalid_argument, "resized_height", "it comes with resized_width or not at all");
  }
  const double least = static_cast<double>(options.min_pixels.value_or(static_cast<int64_t>(kServerMinPixels)));
  const double most = static_cast<double>(options.max_pixels.value_or(static_cast<int64_t>(kServerMaxPixels)));
  if (least > most) {
    return make_error(ErrorCode::invalid_argument, "min_pixels", "{} is more than max_pixels, {}", least, most);
  }
  return {};
}

Result<media::Image> resize_to(media::Image image, const PixelSize& size, media::Resample filter) {
  if (size.height < 1 || size.width < 1) {
    return make_error(ErrorCode::invalid_argument, "picture",
                      "{} x {} pixels (width x height) would shrink to {} x {}: too long for max_pixels", image.width,
                      image.height, size.width, size.height);
  }
  if (size.height * size.width > ImageProcessor::kPixelsMax) {
    return make_error(ErrorCode::too_large, "picture", "it would be resized to {} x {} pixels, over the limit of {}",
                      size.width, size.height, ImageProcessor::kPixelsMax);
  }
  const int height = static_cast<int>(size.height);
  const int width = static_cast<int>(size.width);
  if (height == image.height && width == image.width) return image;
  return media::resize(image, height, width, filter);
}

}  // namespace

Result<ImageProcessorConfig> parse_image_processor_config(const Json& json, std::string_view where) {
  const Fields fields(json, where);
  if (!json.is_object()) return make_error(ErrorCode::invalid_argument, where, "expected a JSON object");
  KEYE_TRY_VOID(check_not_wished(fields));
  ImageProcessorConfig config;
  KEYE_TRY(config.do_resize, fields.boolean("do_resize", config.do_resize));
  KEYE_TRY(config.do_rescale, fields.boolean("do_rescale", config.do_rescale));
  KEYE_TRY(config.do_normalize, fields.boolean("do_normalize", config.do_normalize));
  KEYE_TRY(config.image_mean, fields.channels("image_mean", config.image_mean));
  KEYE_TRY(config.image_std, fields.channels("image_std", config.image_std));
  for (const float deviation : config.image_std) {
    if (deviation <= 0) return fields.wrong("image_std", "expected numbers above 0, got {}", deviation);
  }
  if (const Json* factor = fields.find("rescale_factor"); factor != nullptr) {
    if (!factor->is_number() || !(factor->get<double>() > 0) || !std::isfinite(factor->get<double>())) {
      return fields.wrong("rescale_factor", "expected a number above 0, got {}", factor->dump());
    }
    config.rescale_factor = factor->get<double>();
  }
  KEYE_TRY(const auto resample, fields.integer("resample", 0, 5));
  if (resample.value_or(3) != 2 && resample.value_or(3) != 3) {
    return fields.unsupported("resample", "expected 3 (bicubic) or 2 (bilinear), got {}", *resample);
  }
  config.resample = resample.value_or(3) == 3 ? media::Resample::bicubic : media::Resample::bilinear;
  KEYE_TRY(const auto patch_size, fields.integer("patch_size", 1, 256));
  KEYE_TRY(const auto merge_size, fields.integer("merge_size", 1, 16));
  config.patch_size = static_cast<int>(patch_size.value_or(config.patch_size));
  config.merge_size = static_cast<int>(merge_size.value_or(config.merge_size));
  KEYE_TRY_VOID(parse_limits(fields, where, config));
  return config;
}

ImageProcessor::ImageProcessor(const ImageProcessorConfig& config) : config_(config) {
  for (size_t c = 0; c < 3; ++c) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const double value = static_cast<double>(byte);
      const float scaled = static_cast<float>(config.do_rescale ? value * config.rescale_factor : value);
      normalised_[c][byte] = config.do_normalize ? (scaled - config.image_mean[c]) / config.image_std[c] : scaled;
    }
  }
}

Result<ImageProcessor> ImageProcessor::load(const Path& folder) {
  const Path path = folder / "preprocessor_config.json";
  KEYE_TRY(const Json json, read_json(path));
  KEYE_TRY(const ImageProcessorConfig config, parse_image_processor_config(json, path.string()));
  return ImageProcessor(config);
}

Result<media::Image> ImageProcessor::resize(media::Image image, const ImageOptions& options) const {
  KEYE_TRY_VOID(check_options(options));
  const int factor = options.factor.value_or(config_.factor());
  const bool sized = options.resized_height.has_value();
  const double least = sized ? kServerMinPixels
                             : static_cast<double>(options.min_pixels.value_or(static_cast<int64_t>(kServerMinPixels)));
  const double most = sized ? kServerMaxPixels
                            : static_cast<double>(options.max_pixels.value_or(static_cast<int64_t>(kServerMaxPixels)));
  KEYE_TRY(const PixelSize first, server_resize(options.resized_height.value_or(image.height),
                                                options.resized_width.value_or(image.width), factor, least, most));
  KEYE_TRY(image, resize_to(std::move(image), first, media::Resample::bicubic));
  if (config_.do_resize) {
    KEYE_TRY(const PixelSize second,
             processor_resize(first.height, first.width, config_.factor(), static_cast<double>(config_.min_pixels),
                              static_cast<double>(config_.max_pixels)));
    KEYE_TRY(image, resize_to(std::move(image), second, config_.resample));
  }
  if (image.height % config_.factor() != 0 || image.width % config_.factor() != 0) {
    return make_error(ErrorCode::invalid_argument, "factor",
                      "{} gives {} x {} pixels, which are not whole merged patches of {}", factor, image.width,
                      image.height, config_.factor());
  }
  return image;
}

Result<ImagePatches> ImageProcessor::prepare(media::Image image, const ImageOptions& options) const {
  KEYE_TRY(const media::Image resized, resize(std::move(image), options));
  return patchify(resized);
}

PatchGrid ImageProcessor::grid(const media::Image& image) const {
  return {image.height / config_.patch_size, image.width / config_.patch_size};
}

Digest ImageProcessor::content_digest(const media::Image& image) const {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(normalised_)));
  for (const int value : {config_.patch_size, config_.merge_size, image.height, image.width}) hash.add_value(value);
  return hash.add(std::as_bytes(std::span(image.rgb))).finish();
}

ImagePatches ImageProcessor::patchify(const media::Image& image) const {
  const int patch = config_.patch_size;
  KEYE_CHECK(image.height % config_.factor() == 0 && image.width % config_.factor() == 0, "{} x {} by {}", image.height,
             image.width, config_.factor());
  ImagePatches patches;
  patches.grid = grid(image);
  patches.pixel_values = Tensor(DType::f32, {patches.grid.patches(), 3, patch, patch});
  float* out = patches.pixel_values.as<float>();
  for (int grid_y = 0; grid_y < patches.grid.rows; ++grid_y) {
    for (int grid_x = 0; grid_x < patches.grid.cols; ++grid_x) {
      for (size_t c = 0; c < 3; ++c) {
        for (int y = 0; y < patch; ++y) {
          const uint8_t* in = image.row(grid_y * patch + y) + 3 * static_cast<size_t>(grid_x * patch) + c;
          for (int x = 0; x < patch; ++x) *out++ = normalised_[c][in[3 * x]];
        }
      }
    }
  }
  return patches;
}

}  // namespace keye::prompt
