#include "prompt/video_parts.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "prompt/fields.h"

namespace keye::prompt {
namespace {

using text::Kind;
using text::Value;

Result<double> number_of(const Value& value, const std::string& where) {
  if ((value.is(Kind::integer) || value.is(Kind::real)) && std::isfinite(value.real())) return value.real();
  return refuse(where, "should be a number");
}

/// Whole numbers may be written 2.0: clients compute them.
Result<int64_t> whole_of(const Value& value, const std::string& where) {
  if (value.is(Kind::integer)) return value.integer();
  constexpr double kMax = 9e15;
  if (value.is(Kind::real) && std::abs(value.real()) < kMax && value.real() == std::floor(value.real()))
    return static_cast<int64_t>(value.real());
  return refuse(where, "should be a whole number");
}

std::optional<double>* find_number(VideoKwargs& kwargs, std::string_view name) {
  if (name == "fps") return &kwargs.fps;
  if (name == "min_frame_similarity") return &kwargs.min_frame_similarity;
  if (name == "video_start") return &kwargs.video_start;
  return name == "video_end" ? &kwargs.video_end : nullptr;
}

std::optional<int64_t>* find_whole(VideoKwargs& kwargs, std::string_view name) {
  if (name == "nframes") return &kwargs.nframes;
  if (name == "min_frames") return &kwargs.min_frames;
  if (name == "max_frames") return &kwargs.max_frames;
  if (name == "min_pixels") return &kwargs.min_pixels;
  if (name == "max_pixels") return &kwargs.max_pixels;
  // The second is qwen-vl-utils' name for the same.
  return name == "video_total_pixels" || name == "total_pixels" ? &kwargs.video_total_pixels : nullptr;
}

bool is_kwarg(std::string_view name) {
  const auto& names = video_kwarg_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

Result<void> assign(VideoKwargs& kwargs, std::string_view name, const Value& value, const std::string& where) {
  if (auto* number = find_number(kwargs, name)) {
    KEYE_TRY(*number, number_of(value, where));
  } else {
    KEYE_TRY(const int64_t whole, whole_of(value, where));
    if (auto* found = find_whole(kwargs, name)) {
      *found = whole;
    } else if (whole >= 1 && whole <= 4096) {
      kwargs.factor = static_cast<int>(whole);
    } else {
      return refuse(where, fmt::format("expected 1 to 4096, got {}", whole));
    }
  }
  return {};
}

Result<void> set_kwarg(VideoKwargs& kwargs, std::string_view name, const Value& value, const std::string& where) {
  if (value.is(Kind::none)) return {};
  VideoKwargs alone;  // what is wrong with it is said of its own place
  KEYE_TRY_VOID(assign(alone, name, value, where));
  const auto checked = check_kwargs(alone);
  if (!checked) return refuse(where, checked.error().message, checked.error().code);
  return assign(kwargs, name, value, where);
}

/// All of an object's fields but those that `is_own` knows.
template <class IsOwn>
Result<void> read_kwargs(VideoKwargs& kwargs, const text::Dict& object, const std::string& where, const IsOwn& is_own) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = key.is_string() ? key.text() : "";
    if (is_own(name)) continue;
    const std::string place = where + "." + name;
    if (!is_kwarg(name)) {
      return refuse(place, fmt::format("unknown; known for videos are {}", fmt::join(video_kwarg_names(), ", ")),
                    ErrorCode::unsupported);
    }
    KEYE_TRY_VOID(set_kwarg(kwargs, name, value, place));
  }
  return {};
}

Result<void> read_nested(VideoKwargs& kwargs, const Value& holder, const std::string& where) {
  const Value* nested = field(holder, "preprocess_kwargs");
  if (nested == nullptr) return {};
  const std::string place = where + ".preprocess_kwargs";
  if (!nested->is(Kind::dict)) return refuse(place, "should be an object");
  return read_kwargs(kwargs, nested->dict(), place, [](const std::string&) { return false; });
}

/// "data:video/jpeg;base64,A,B" as data: URIs of its pictures; nothing for all other references.
std::vector<std::string> pictures_of(const std::string& reference) {
  constexpr std::string_view kList = "data:video/jpeg;base64,";
  const bool is_list =
      reference.size() >= kList.size() && std::equal(kList.begin(), kList.end(), reference.begin(), [](char a, char b) {
        return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
      });
  std::vector<std::string> pictures;
  if (!is_list) return pictures;
  for (size_t begin = kList.size(); begin <= reference.size();) {
    const size_t end = std::min(reference.find(',', begin), reference.size());
    pictures.push_back("data:image/jpeg;base64," + reference.substr(begin, end - begin));
    begin = end + 1;
  }
  return pictures;
}

Result<void> read_sources(const Value& value, const std::string& where, VideoReference& video) {
  if (value.is_string()) {
    video.sources = pictures_of(value.text());
    video.is_list = !video.sources.empty();
    if (!video.is_list) video.sources = {value.text()};
    return {};
  }
  if (!value.is_sequence() || value.items().empty())
    return refuse(where, "should be a string, or a list of at least one picture");
  video.is_list = true;
  for (size_t i = 0; i < value.items().size(); ++i) {
    const Value& item = value.items()[i];
    if (!item.is_string()) return refuse(fmt::format("{}[{}]", where, i), "should be a string: a path or a URI");
    video.sources.push_back(item.text());
  }
  return {};
}

/// Names a part's kwarg by the place of the part.
Result<void> check_at(const VideoReference& video) {
  auto checked = check_kwargs(video.kwargs);
  if (checked) return {};
  return refuse(video.where + "." + checked.error().where, checked.error().message, checked.error().code);
}

}  // namespace

const std::vector<std::string_view>& video_kwarg_names() {
  static const std::vector<std::string_view> kNames = {
      "fps",    "nframes",      "min_frames",           "max_frames",  "min_pixels", "max_pixels", "video_total_pixels",
      "factor", "total_pixels", "min_frame_similarity", "video_start", "video_end"};
  return kNames;
}

Result<VideoReference> read_video(const text::Value& part, const std::string& where) {
  VideoReference video;
  video.where = where;
  const char* name = field(part, "video_url") != nullptr ? "video_url" : "video";
  const Value* source = field(part, name);
  const std::string place = where + "." + name;
  if (source == nullptr) return refuse(where + ".video_url", "is missing");
  KEYE_TRY_VOID(read_kwargs(video.kwargs, part.dict(), where, [&](const std::string& key) {
    return key == "type" || key == name || key == "preprocess_kwargs" || key == "prompt_cache_breakpoint";
  }));
  KEYE_TRY_VOID(read_nested(video.kwargs, part, where));
  if (!source->is(Kind::dict)) {
    KEYE_TRY_VOID(read_sources(*source, place, video));
  } else {
    const Value* url = field(*source, "url");
    if (url == nullptr) return refuse(place + ".url", "should be a string, or a list of pictures");
    KEYE_TRY_VOID(read_sources(*url, place + ".url", video));
    KEYE_TRY_VOID(read_kwargs(video.kwargs, source->dict(), place, [](const std::string& key) {
      return key == "url" || key == "preprocess_kwargs" || key == "detail" || key == "max_dynamic_patch";
    }));
    KEYE_TRY_VOID(read_nested(video.kwargs, *source, place));
  }
  KEYE_TRY_VOID(check_at(video));
  return video;
}

}  // namespace keye::prompt
