#include "prompt/media_loader.h"

#include <algorithm>

#include "media/fetch.h"
#include "media/load.h"
#include "prompt/fields.h"
#include "prompt/picture_frames.h"

namespace keye::prompt {
namespace {

const std::string& where_of(const MediaReference& reference) {
  return std::visit([](const auto& one) -> const std::string& { return one.where; }, reference);
}

/// At most so many of one kind; `what` names them in the error.
template <class Kind>
Result<void> check_count(const std::vector<MediaReference>& references, int most, std::string_view what) {
  int count = 0;
  const std::string* where = nullptr;
  for (const MediaReference& reference : references) {
    if (!std::holds_alternative<Kind>(reference)) continue;
    if (count++ == most) where = &where_of(reference);
  }
  if (where == nullptr) return {};
  return refuse(*where, fmt::format("there are {} {}, at most {} are taken", count, what, most), ErrorCode::too_large);
}

Error at_source(const std::string& where, const std::string& source, const Error& error) {
  const std::string shown = media::shown_reference(source);
  const std::string file = error.where == shown ? "" : shown + ": ";
  return refuse(where, file + error.to_string(), error.code);
}

/// A clip, or the encoded pictures of a list.
using FetchedVideo = std::variant<media::Clip, std::vector<std::string>>;

Result<FetchedVideo> fetch_list(const VideoReference& video, const MediaAccess& access) {
  if (static_cast<int>(video.sources.size()) > access.list_frames_max) {
    return make_error(ErrorCode::too_large, "video", "it is a list of {} pictures, at most {} are taken",
                      video.sources.size(), access.list_frames_max);
  }
  std::vector<std::string> encoded;
  auto fetched = media::fetch_media(video.sources, access.policy, access.limits, access.stop);
  for (size_t i = 0; i < fetched.size(); ++i) {
    if (!fetched[i]) {
      const Error& error = fetched[i].error();
      return make_error(error.code, fmt::format("frame {}", i), "{}", error.to_string());
    }
    encoded.push_back(std::move(fetched[i]).value());
  }
  return FetchedVideo(std::move(encoded));
}

Result<OpenVideo> open_list(std::vector<std::string> encoded, const VideoKwargs& kwargs, const VideoRules& rules,
                            const MediaAccess& access) {
  const PictureFrameSize size{.factor = kwargs.factor.value_or(rules.factor),
                              .min_pixels = static_cast<double>(kwargs.min_pixels.value_or(rules.limits.min_pixels)),
                              .max_pixels = static_cast<double>(kwargs.max_pixels.value_or(rules.limits.max_pixels))};
  KEYE_TRY(PictureFrames frames, PictureFrames::open(std::move(encoded), size, access.limits));
  return OpenVideo{std::make_unique<PictureFrames>(std::move(frames)), true};
}

Result<FetchedVideo> fetch_video(const VideoReference& video, const MediaAccess& access) {
  if (video.is_list) return fetch_list(video, access);
  if (access.decoder == nullptr) {
    return make_error(ErrorCode::unsupported, "", "clips are not decoded here; send the frames as a list of pictures");
  }
  KEYE_TRY(media::Clip clip, media::fetch_clip(video.sources[0], access.policy, access.clip_bytes_max, access.stop));
  return FetchedVideo(std::move(clip));
}

Result<OpenVideo> open_fetched(FetchedVideo fetched, const VideoKwargs& kwargs, const VideoRules& rules,
                               const MediaAccess& access) {
  if (auto* encoded = std::get_if<std::vector<std::string>>(&fetched)) {
    return open_list(std::move(*encoded), kwargs, rules, access);
  }
  KEYE_TRY(auto source, access.decoder->open(std::get<media::Clip>(std::move(fetched)), access.stop));
  return OpenVideo{std::move(source), false};
}

/// Names what a video is made from.
Result<Digest> source_digest(const FetchedVideo& fetched, const std::stop_token& stop) {
  if (const auto* clip = std::get_if<media::Clip>(&fetched)) return clip->digest(stop);
  Sha256 hash;
  for (const std::string& picture : std::get<std::vector<std::string>>(fetched)) hash.add_text(picture);
  return hash.finish();
}

/// Loads the media of one prompt, one after the other.
class Loader {
 public:
  Loader(const MediaProcessors& processors, const MediaAccess& access)
      : processors_(processors), access_(access), tokens_left_(access.tokens_max) {}

  Result<std::vector<MediaBlock>> run(const std::vector<MediaReference>& references);

 private:
  Result<void> fetch_pictures(const std::vector<MediaReference>& references);
  Result<MediaBlock> load(const PictureReference& picture);
  Result<MediaBlock> load(const VideoReference& video);
  Result<VideoCache::Shared> prepare(const VideoReference& video) const;
  VideoProcessor processor() const;
  VideoWatch watch() const;

  const MediaProcessors& processors_;
  const MediaAccess& access_;
  int64_t tokens_left_;
  std::vector<Result<std::string>> pictures_;  // their bytes
  size_t next_picture_ = 0;
};

Result<std::vector<MediaBlock>> Loader::run(const std::vector<MediaReference>& references) {
  KEYE_TRY_VOID(check_count<PictureReference>(references, access_.pictures_max, "pictures"));
  KEYE_TRY_VOID(check_count<VideoReference>(references, access_.videos_max, "videos"));
  KEYE_TRY_VOID(fetch_pictures(references));
  std::vector<MediaBlock> blocks;
  for (const MediaReference& reference : references) {
    if (access_.stop.stop_requested()) return Error{ErrorCode::cancelled, "the request was cancelled", ""};
    KEYE_TRY(MediaBlock block, std::visit([&](const auto& one) { return load(one); }, reference));
    int64_t tokens = 0;
    for (const VisionItem& item : block.items) tokens += item.tokens;
    if (tokens > tokens_left_) {
      return refuse(where_of(reference),
                    fmt::format("the pictures up to this one need {} tokens; the context holds {}",
                                access_.tokens_max - tokens_left_ + tokens, access_.tokens_max),
                    ErrorCode::too_large);
    }
    tokens_left_ -= tokens;
    blocks.push_back(std::move(block));
  }
  return blocks;
}

/// All pictures at the same time: most of it is waiting.
Result<void> Loader::fetch_pictures(const std::vector<MediaReference>& references) {
  std::vector<std::string> sources;
  for (const MediaReference& reference : references) {
    if (const auto* picture = std::get_if<PictureReference>(&reference)) sources.push_back(picture->source);
  }
  if (!sources.empty()) pictures_ = media::fetch_media(sources, access_.policy, access_.limits, access_.stop);
  return {};
}

Result<MediaBlock> Loader::load(const PictureReference& picture) {
  Result<std::string>& bytes = pictures_[next_picture_++];
  auto item = bytes ? prepare_picture(*bytes, picture.options, processors_.images, access_.limits)
                    : Result<VisionItem>(bytes.error());
  bytes = std::string();
  if (!item) return at_source(picture.where, picture.source, item.error());
  MediaBlock block;
  block.items.push_back(std::move(item).value());
  return block;
}

VideoWatch Loader::watch() const {
  VideoWatch watch{.stop = access_.stop, .tokens_max = tokens_left_, .progress = {}, .ready = access_.ready};
  if (access_.progress) {
    watch.progress = [&access = access_](int64_t done, int64_t total) { access.progress("video", done, total); };
  }
  return watch;
}

VideoProcessor Loader::processor() const {
  VideoRules rules = processors_.videos->rules();
  rules.adaptive = access_.adaptive_budget;
  return {processors_.images, rules};
}

Result<VideoCache::Shared> Loader::prepare(const VideoReference& video) const {
  const VideoProcessor with = processor();
  KEYE_TRY(FetchedVideo fetched, fetch_video(video, access_));
  const auto read = [&]() -> Result<PreparedVideo> {
    KEYE_TRY(const OpenVideo opened, open_fetched(std::move(fetched), video.kwargs, with.rules(), access_));
    return with.prepare(*opened.source, video.kwargs, opened.is_list, watch());
  };
  VideoCache* cache = access_.video_cache;
  if (cache == nullptr) {
    KEYE_TRY(PreparedVideo prepared, read());
    return std::make_shared<const PreparedVideo>(std::move(prepared));
  }
  Digest key;
  if (!cache->is_off()) {
    KEYE_TRY(const Digest source, source_digest(fetched, access_.stop));
    key = video_key(source, video.is_list, with.rules(), video.kwargs, access_.cache_salt);
  }
  KEYE_TRY(auto prepared, cache->get(key, access_.stop, read));
  KEYE_TRY_VOID(check_tokens(prepared->frames.size(), prepared->tokens(),
                             tokens_left_));  // it may have been prepared for a prompt with more room
  return prepared;
}

Result<MediaBlock> Loader::load(const VideoReference& video) {
  if (processors_.videos == nullptr) {
    return refuse(video.where, "this model takes no videos; send single frames as image_url parts",
                  ErrorCode::unsupported);
  }
  auto prepared = prepare(video);
  if (!prepared) {
    const Error& error = prepared.error();
    if (!video.is_list) return at_source(video.where, video.sources[0], error);
    return refuse(video.where, error.to_string(), error.code);
  }
  return MediaBlock{.is_video = true, .items = (*prepared)->frames, .marks = (*prepared)->marks};
}

}  // namespace

Result<std::vector<MediaReference>> find_media(const text::Value& messages) {
  std::vector<MediaReference> found;
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
        found.emplace_back(std::move(picture));
      } else if (kind == "video" || kind == "video_url") {
        KEYE_TRY(auto video, read_video(part, where));
        found.emplace_back(std::move(video));
      } else if (kind != "text") {
        return refuse(where, fmt::format("part type \"{}\" is not supported; use text, image_url or video_url", kind),
                      ErrorCode::unsupported);
      }
    }
  }
  return found;
}

Result<OpenVideo> open_video(const VideoReference& video, const VideoRules& rules, const MediaAccess& access) {
  KEYE_TRY(FetchedVideo fetched, fetch_video(video, access));
  return open_fetched(std::move(fetched), video.kwargs, rules, access);
}

Result<std::vector<MediaBlock>> load_media(const std::vector<MediaReference>& references,
                                           const MediaProcessors& processors, const MediaAccess& access) {
  return Loader(processors, access).run(references);
}

}  // namespace keye::prompt
