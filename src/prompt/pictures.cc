#include "prompt/pictures.h"

#include "media/decode.h"
#include "media/fetch.h"
#include "media/load.h"
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

/// {"type": "image_url", "image_url": {"url": ..., "preprocess_kwargs": {...}}}, or its short form {"type": "image",
/// "image": ...}. Options inside image_url win over those beside it.
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

}  // namespace

Result<std::vector<PictureReference>> find_pictures(const text::Value& messages) {
  std::vector<PictureReference> pictures;
  if (!messages.is_sequence()) return refuse("messages", "should be a list");
  for (size_t m = 0; m < messages.items().size(); ++m) {
    const text::Value* content = field(messages.items()[m], "content");
    if (content == nullptr || !content->is_sequence()) continue;
    for (size_t p = 0; p < content->items().size(); ++p) {
      const text::Value& part = content->items()[p];
      const std::string where = fmt::format("messages[{}].content[{}]", m, p);
      const text::Value* type = field(part, "type");
      const std::string kind = type != nullptr && type->is_string() ? type->text() : "";
      if (kind == "image" || kind == "image_url") {
        KEYE_TRY(auto picture, read_picture(part, where));
        pictures.push_back(std::move(picture));
      } else if (kind == "video" || kind == "video_url") {
        return refuse(where, "videos are not supported yet; send single frames as image_url parts",
                      ErrorCode::unsupported);
      } else if (kind != "text") {
        return refuse(where, fmt::format("part type \"{}\" is not supported; use text or image_url", kind),
                      ErrorCode::unsupported);
      }
    }
  }
  return pictures;
}

Result<std::vector<VisionItem>> load_pictures(const std::vector<PictureReference>& pictures,
                                              const ImageProcessor& processor, const MediaAccess& access) {
  std::vector<VisionItem> items;
  if (pictures.empty()) return items;
  if (static_cast<int>(pictures.size()) > access.pictures_max) {
    return refuse(pictures[static_cast<size_t>(access.pictures_max)].where,
                  fmt::format("there are {} pictures, at most {} are taken", pictures.size(), access.pictures_max),
                  ErrorCode::too_large);
  }
  std::vector<std::string> sources;
  for (const PictureReference& picture : pictures) sources.push_back(picture.source);
  std::vector<Result<std::string>> fetched = media::fetch_media(sources, access.policy, access.limits, access.stop);
  int64_t tokens = 0;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (access.stop.stop_requested()) return Error{ErrorCode::cancelled, "the request was cancelled", ""};
    auto prepare = [&]() -> Result<media::Image> {
      KEYE_TRY(const std::string bytes, std::move(fetched[i]));
      KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(bytes)), access.limits));
      return processor.resize(std::move(image), pictures[i].options);
    };
    auto image = prepare();
    fetched[i] = std::string();
    if (!image) {
      const Error& error = image.error();
      const std::string shown = media::shown_reference(pictures[i].source);
      const std::string file = error.where == shown ? "" : shown + ": ";
      return refuse(pictures[i].where, file + error.to_string(), error.code);
    }
    VisionItem item;
    item.grid = processor.grid(*image);
    item.content = processor.content_digest(*image);
    item.tokens = processor.tokens(item.grid);
    item.image = std::move(image).value();
    tokens += item.tokens;
    if (tokens > access.tokens_max) {
      return refuse(
          pictures[i].where,
          fmt::format("the pictures up to this one need {} tokens; the context holds {}", tokens, access.tokens_max),
          ErrorCode::too_large);
    }
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace keye::prompt
