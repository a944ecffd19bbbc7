#include "prompt/prompt_builder.h"

#include <algorithm>

#include "media/decode.h"
#include "media/fetch.h"

namespace keye::prompt {
namespace {

struct PictureReference {
  std::string source;  // a path, an http(s)://, file:// or data: URI
  ImageOptions options;
  std::string where;  // "messages[1].content[0]"
};

const text::Value* field(const text::Value& value, std::string_view key) {
  if (!value.is(text::Kind::dict)) return nullptr;
  const text::Value* found = value.dict().find(key);
  return found == nullptr || found->is(text::Kind::none) ? nullptr : found;
}

Error refuse(const std::string& where, std::string message, ErrorCode code = ErrorCode::invalid_argument) {
  return {code, std::move(message), where};
}

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

/// The pictures of a conversation, in the order of their parts.
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

/// Where the engine itself wrote `needle`: text of a message that looks like it does not count.
std::vector<size_t> find_own(const text::Marked& text, const std::string& needle) {
  std::vector<size_t> places;
  for (size_t at = text.text.find(needle); at != std::string::npos; at = text.text.find(needle, at)) {
    bool own = true;
    for (size_t i = 0; i < needle.size(); ++i) own = own && text.origin_at(at + i) == text::kOriginEngine;
    if (own) places.push_back(at);
    at += own ? needle.size() : 1;
  }
  return places;
}

}  // namespace

Result<PromptBuilder> PromptBuilder::load(const Path& folder, const PromptSpec& spec) {
  PromptBuilder builder;
  builder.spec_ = spec;
  KEYE_TRY(auto tokenizer, text::Tokenizer::load(folder / "tokenizer.json"));
  builder.tokenizer_ = std::make_shared<const text::Tokenizer>(std::move(tokenizer));
  auto chat_template = ChatTemplate::load(folder);
  if (chat_template) {
    builder.template_ = std::make_shared<const ChatTemplate>(std::move(chat_template).value());
  } else if (chat_template.error().code != ErrorCode::not_found) {
    return chat_template.error();
  }
  if (!spec.has_vision) return builder;
  KEYE_TRY(builder.images_, ImageProcessor::load(folder));
  const std::string where = (folder / "tokenizer.json").string();
  builder.placeholder_ = builder.tokenizer_->id_to_token(spec.image_token).value_or("");
  if (builder.placeholder_.empty()) {
    return refuse(where, fmt::format("has no token {}, which config.json names as image_token_id", spec.image_token),
                  ErrorCode::corrupt_data);
  }
  if (builder.images_->config().merge_size != spec.merge) {
    return refuse((folder / "preprocessor_config.json").string(),
                  fmt::format("merge_size {} differs from the model's spatial_merge_size {}",
                              builder.images_->config().merge_size, spec.merge),
                  ErrorCode::corrupt_data);
  }
  return builder;
}

Result<Prompt> PromptBuilder::build(const Conversation& conversation, const media::MediaLimits& limits) const {
  if (template_ == nullptr) {
    return refuse(
        "chat_template",
        "the checkpoint has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
        ErrorCode::not_found);
  }
  KEYE_TRY(const std::vector<PictureReference> pictures, find_pictures(conversation.messages));
  if (!pictures.empty() && !images_)
    return refuse(pictures[0].where, "this model reads text only; remove the pictures", ErrorCode::unsupported);
  std::vector<std::string> sources;
  sources.reserve(pictures.size());
  for (const PictureReference& picture : pictures) sources.push_back(picture.source);
  std::vector<Result<std::string>> fetched = media::fetch_media(sources, {.any_path = true}, limits);
  Prompt prompt;
  for (size_t i = 0; i < pictures.size(); ++i) {
    const PictureReference& picture = pictures[i];
    auto prepare = [&]() -> Result<ImagePatches> {
      KEYE_TRY(const std::string bytes, std::move(fetched[i]));
      KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(bytes)), limits));
      return images_->prepare(std::move(image), picture.options);
    };
    auto patches = prepare();
    if (!patches) {
      const Error& error = patches.error();
      const std::string shown = media::shown_reference(picture.source);
      const std::string file = error.where == shown ? "" : shown + ": ";
      return refuse(picture.where, file + error.to_string(), error.code);
    }
    const int32_t tokens = images_->tokens(*patches);
    prompt.vision.push_back({std::move(patches).value(), 0, tokens});
  }
  KEYE_TRY(const text::Rendered rendered, template_->render(conversation.messages, conversation.render));
  KEYE_TRY(const text::Rendered expanded, expand(rendered, prompt.vision));
  if (expanded.size() > text::kEncodeBytesMax) {
    return refuse("messages",
                  fmt::format("{} bytes of prompt, the limit is {}", expanded.size(), text::kEncodeBytesMax),
                  ErrorCode::too_large);
  }
  prompt.text = expanded.text;
  prompt.tokens = tokenizer_->encode(expanded.text, expanded.origin);

  std::vector<TokenGrid> grids;
  auto cursor = prompt.tokens.begin();
  for (VisionItem& item : prompt.vision) {
    cursor = std::find(cursor, prompt.tokens.end(), spec_.image_token);
    KEYE_CHECK(prompt.tokens.end() - cursor >= item.tokens, "placeholders and pictures do not match");
    item.first_token = static_cast<int32_t>(cursor - prompt.tokens.begin());
    cursor += item.tokens;
    grids.push_back({item.patches.grid_h / spec_.merge, item.patches.grid_w / spec_.merge});
  }
  Positions positions = spec_.three_axes ? media_positions(prompt.tokens, grids, spec_.image_token)
                                         : text_positions(static_cast<int64_t>(prompt.tokens.size()));
  prompt.positions = std::move(positions.axes);
  prompt.position_delta = positions.delta;
  return prompt;
}

Result<text::Rendered> PromptBuilder::expand(const text::Rendered& rendered, std::vector<VisionItem>& items) const {
  if (placeholder_.empty()) return rendered;
  const std::vector<size_t> places = find_own(rendered, placeholder_);
  if (places.size() != items.size()) {
    return refuse("messages", fmt::format("the chat template wrote {} picture placeholders for {} pictures",
                                          places.size(), items.size()));
  }
  text::Rendered expanded;
  size_t done = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    expanded.append(rendered, done, places[i] - done);
    for (int32_t t = 0; t < items[i].tokens; ++t) expanded.append(std::string_view(placeholder_));
    done = places[i] + placeholder_.size();
  }
  expanded.append(rendered, done, rendered.size() - done);
  return expanded;
}

Prompt PromptBuilder::from_tokens(std::vector<int32_t> tokens) const {
  Prompt prompt;
  prompt.tokens = std::move(tokens);
  prompt.text = tokenizer_->decode(prompt.tokens, false);
  prompt.positions = text_positions(static_cast<int64_t>(prompt.tokens.size())).axes;
  return prompt;
}

}  // namespace keye::prompt
