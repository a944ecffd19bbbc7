#include "cli/video_flags.h"

#include "cli/model_flags.h"
#include "engine/load.h"
#include "media/load.h"

namespace keye::cli {
namespace {

text::Value texts(const std::vector<std::string>& strings) {
  text::Values items;
  for (const std::string& string : strings) items.emplace_back(std::string_view(string));
  return text::Value::list(std::move(items));
}

template <class T>
void set(text::Dict& part, const char* name, const std::optional<T>& value) {
  if (value) part.set(name, text::Value(*value));
}

text::Value part_of(text::Value video, const prompt::VideoKwargs& kwargs) {
  text::Dict part;
  part.set("type", text::Value("video"));
  part.set("video", std::move(video));
  set(part, "fps", kwargs.fps);
  set(part, "nframes", kwargs.nframes);
  set(part, "min_frames", kwargs.min_frames);
  set(part, "max_frames", kwargs.max_frames);
  set(part, "min_pixels", kwargs.min_pixels);
  set(part, "max_pixels", kwargs.max_pixels);
  set(part, "video_total_pixels", kwargs.video_total_pixels);
  set(part, "min_frame_similarity", kwargs.min_frame_similarity);
  set(part, "video_start", kwargs.video_start);
  set(part, "video_end", kwargs.video_end);
  return text::Value::dict(std::move(part));
}

}  // namespace

void VideoFlags::add(CLI::App& app) {
  app.add_option("--video", clips, "clip: a file, http(s)://, file:// or data: URI; may be repeated")->expected(1);
  app.add_option("--frames", frames, "pictures that are the frames of one video, in order; --fps is their rate")
      ->expected(1, 1 << 20);
  app.add_option("--fps", kwargs.fps, "frames seen a second (default: 2)");
  app.add_option("--nframes", kwargs.nframes, "in place of --fps: frames seen of the whole video");
  app.add_option("--min-frames", kwargs.min_frames, "at least so many, where the clip has them");
  app.add_option("--max-frames", kwargs.max_frames, "at most so many");
  app.add_option("--frame-min-pixels", kwargs.min_pixels, "smaller frames are enlarged (default: the model's)");
  app.add_option("--frame-max-pixels", kwargs.max_pixels, "larger frames are shrunk (default: the model's)");
  app.add_option("--video-total-pixels", kwargs.video_total_pixels, "of all frames of a video (default: the model's)");
  app.add_option("--min-frame-similarity", kwargs.min_frame_similarity,
                 "Keye-VL-1.5: frames less similar than this to the last slow frame are slow (default: 0.9)");
  app.add_option("--video-start", kwargs.video_start, "seconds: frames before are not seen");
  app.add_option("--video-end", kwargs.video_end, "seconds: frames after are not seen");
  app.add_flag("--adaptive-video-tokens", adaptive,
               "Keye-VL-2.0: videos under 34 minutes have smaller budgets of tokens");
}

text::Values VideoFlags::parts() const {
  text::Values parts;
  for (const std::string& clip : clips) parts.push_back(part_of(text::Value(std::string_view(clip)), kwargs));
  if (!frames.empty()) parts.push_back(part_of(texts(frames), kwargs));
  return parts;
}

std::vector<prompt::VideoReference> VideoFlags::references() const {
  std::vector<prompt::VideoReference> videos;
  for (const std::string& clip : clips) {
    videos.push_back({.sources = {clip}, .is_list = false, .kwargs = kwargs, .where = "--video"});
  }
  if (!frames.empty()) videos.push_back({.sources = frames, .is_list = true, .kwargs = kwargs, .where = "--frames"});
  return videos;
}

Result<prompt::VideoPolicy> video_policy(const Path& folder, const model::ModelConfig& config) {
  const auto policy = engine::prompt_spec(config).video;
  if (!policy) return make_error(ErrorCode::unsupported, folder.string(), "this model takes no videos");
  return *policy;
}

Error about(const std::string& reference, const Error& error) {
  const std::string shown = media::shown_reference(reference);
  return error.where == shown ? error : Error{error.code, error.to_string(), shown};
}

prompt::MediaAccess command_access(media::VideoDecoder& decoder, const VideoFlags& flags, std::stop_token stop) {
  return {.policy = {.any_path = true},
          .decoder = &decoder,
          .adaptive_budget = flags.adaptive,
          .video_cache = nullptr,
          .cache_salt = {},
          .stop = std::move(stop),
          .progress = generate_progress(),
          .ready = {}};
}

}  // namespace keye::cli
