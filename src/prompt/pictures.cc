#include "prompt/pictures.h"

#include "media/decode.h"
#include "prompt/fields.h"

namespace keye::prompt {
namespace {

Result<void> read_options(const text::Value& kwargs, const std::string& where, ImageOptions& options) {
  if (!kwargs.is(text::Kind::dict)) return refuse(where, "should be an object");
  for (const auto& [key, value] : kwargs.dict().items()) {
    const std::string name = key.is_string() ? key.text() : "";
    if (value.is(text::Kind::none)) continue;
    constexpr int64_t kLimit = int64_t{1} << 30;
    if (!value.is(text::Kind::integer) || value.integer() < 1 || value.integer() > kLimit) {
      return refuse(where + "." + name, fmt::format("should be a whole number in [1, {}]", kLimit));
    }
    if (name == "min_pixels") {
      options.min_pixels = value.integer();
    } else if (name == "max_pixels") {
      options.max_pixels = value.integer();
    } else if (name == "factor") {
      options.factor = static_cast<int>(value.integer());
    } else if (name == "resized_height") {
      options.resized_height = static_cast<int>(value.integer());
    } else if (name == "resized_width") {
      options.resized_width = static_cast<int>(value.integer());
    } else {
      return refuse(where + "." + name,
                    "unknown; known for pictures are min_pixels, max_pixels, factor, resized_height, resized_width",
                    ErrorCode::unsupported);
    }
  }
  return {};
}

}  // namespace

Result<PictureReference> read_picture(const text::Value& part, const std::string& where) {
  PictureReference picture;
  picture.where = where;
  if (const text::Value* beside = field(part, "preprocess_kwargs")) {
    KEYE_TRY_VOID(read_options(*beside, where + ".preprocess_kwargs", picture.options));
  }
  const text::Value* url = field(part, "image_url");
  if (url == nullptr) url = field(part, "image");
  if (url != nullptr && url->is(text::Kind::dict)) {
    if (const text::Value* inside = field(*url, "preprocess_kwargs")) {
      KEYE_TRY_VOID(read_options(*inside, where + ".image_url.preprocess_kwargs", picture.options));
    }
    url = field(*url, "url");
  }
  if (url == nullptr || !url->is_string()) return refuse(where, "should have image_url.url, a string");
  picture.source = url->text();
  return picture;
}

Result<VisionItem> prepare_picture(const std::string& encoded, const ImageOptions& options,
                                   const ImageProcessor& processor, const media::MediaLimits& limits) {
  KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(encoded)), limits));
  KEYE_TRY(image, processor.resize(std::move(image), options));
  return vision_item(std::move(image), processor);
}

VisionItem vision_item(media::Image resized, const ImageProcessor& processor) {
  VisionItem item;
  item.grid = processor.grid(resized);
  item.content = processor.content_digest(resized);
  item.tokens = processor.tokens(item.grid);
  item.image = std::make_shared<const media::Image>(std::move(resized));
  return item;
}

}  // namespace keye::prompt
