#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/video_flags.h"
#include "engine/load.h"
#include "media/decode.h"
#include "media/fetch.h"
#include "media/load.h"
#include "prompt/image_processor.h"
#include "tensor/safetensors_writer.h"

namespace keye::cli {
namespace {

struct Flags {
  std::string model;
  std::vector<std::string> images;
  std::string out;
  int64_t min_pixels = 0;
  int64_t max_pixels = 0;
  VideoFlags video;
};

Result<prompt::ImagePatches> prepare(const prompt::ImageProcessor& processor, const std::string& reference,
                                     const prompt::ImageOptions& options) {
  const media::MediaLimits limits;
  KEYE_TRY(const std::string bytes, media::fetch_media(reference, {.any_path = true}, limits));
  KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(bytes)), limits));
  const int height = image.height;
  const int width = image.width;
  KEYE_TRY(prompt::ImagePatches patches, processor.prepare(std::move(image), options));
  const int patch = processor.config().patch_size;
  KEYE_TRY_VOID(write_stdout(
      fmt::format("{}: {} x {} resized to {} x {} (height x width), {} x {} patches, {} tokens\n",
                  media::shown_reference(reference), height, width, patches.grid.rows * patch,
                  patches.grid.cols * patch, patches.grid.rows, patches.grid.cols, processor.tokens(patches.grid))));
  return patches;
}

/// What is written: small tensors as they are, and pixels as they are cut, as those of an hour of video take gigabytes.
class Output {
 public:
  template <class T>
  void add(const char* name, DType dtype, const Shape& shape, const std::vector<T>& values) {
    places_.push_back({name, dtype, shape});
    parts_.push_back([bytes = values](SafetensorsWriter& out) { return out.put(std::as_bytes(std::span(bytes))); });
  }
  void add(const char* name, DType dtype, const Shape& shape, std::function<Result<void>(SafetensorsWriter&)> put) {
    places_.push_back({name, dtype, shape});
    parts_.push_back(std::move(put));
  }
  Result<void> write(const std::string& path) const {
    KEYE_TRY(SafetensorsWriter out, SafetensorsWriter::create(path, places_));
    for (const auto& put : parts_) KEYE_TRY_VOID(put(out));
    return out.finish();
  }

 private:
  std::vector<TensorPlace> places_;
  std::vector<std::function<Result<void>(SafetensorsWriter&)>> parts_;
};

Result<void> put(SafetensorsWriter& out, const Tensor& tensor) {
  return out.put({static_cast<const std::byte*>(tensor.view().data), tensor.view().bytes()});
}

/// All pictures' patches one after the other, and a row (1, rows, columns) for each picture.
void add_pictures(const std::vector<prompt::ImagePatches>& pictures, int patch, Output& out) {
  int64_t count = 0;
  std::vector<int64_t> grids;
  for (const prompt::ImagePatches& picture : pictures) {
    count += picture.grid.patches();
    grids.insert(grids.end(), {1, picture.grid.rows, picture.grid.cols});
  }
  out.add("pixel_values", DType::f32, {count, 3, patch, patch}, [&pictures](SafetensorsWriter& to) -> Result<void> {
    for (const prompt::ImagePatches& picture : pictures) KEYE_TRY_VOID(put(to, picture.pixel_values));
    return {};
  });
  out.add("image_grid_thw", DType::i64, {static_cast<int64_t>(pictures.size()), 3}, grids);
}

/// The same of all frames of all videos; when each is shown, which of its video's frames it is, and its type.
void add_videos(std::vector<prompt::PreparedVideo>& videos, const prompt::ImageProcessor& images, Output& out) {
  int64_t patches = 0;
  std::vector<int64_t> grids, indices, counts;
  std::vector<int32_t> types;
  std::vector<float> times;
  for (const prompt::PreparedVideo& video : videos) {
    for (const prompt::VisionItem& frame : video.frames) {
      patches += frame.grid.patches();
      grids.insert(grids.end(), {1, frame.grid.rows, frame.grid.cols});
    }
    for (const prompt::FrameMark& mark : video.marks) types.push_back(mark.is_fast ? 1 : 0);
    indices.insert(indices.end(), video.choice.indices.begin(), video.choice.indices.end());
    times.insert(times.end(), video.choice.timestamps.begin(), video.choice.timestamps.end());
    counts.push_back(static_cast<int64_t>(video.frames.size()));
  }
  const int patch = images.config().patch_size;
  const auto frames = static_cast<int64_t>(types.size());
  out.add("pixel_values_videos", DType::f32, {patches, 3, patch, patch}, [&](SafetensorsWriter& to) -> Result<void> {
    for (prompt::PreparedVideo& video : videos) {
      for (prompt::VisionItem& frame : video.frames) {
        KEYE_TRY_VOID(put(to, images.patchify(*frame.image).pixel_values));
        frame.image.reset();
      }
    }
    return {};
  });
  out.add("video_grid_thw", DType::i64, {frames, 3}, grids);
  out.add("video_frame_types", DType::i32, {frames}, types);
  out.add("video_frame_indices", DType::i64, {frames}, indices);
  out.add("video_frames", DType::i64, {static_cast<int64_t>(videos.size())}, counts);
  if (times.size() == types.size()) out.add("video_timestamps", DType::f32, {frames}, times);
}

Result<prompt::PreparedVideo> prepare(const prompt::VideoProcessor& processor, const prompt::VideoReference& video,
                                      const prompt::MediaAccess& access) {
  const std::string shown = media::shown_reference(video.sources[0]);
  const auto opened = prompt::open_video(video, processor.rules(), access);
  if (!opened) return about(video.sources[0], opened.error());
  const prompt::VideoWatch watch{.stop = access.stop, .progress = [&](int64_t done, int64_t total) {
                                   if (access.progress) access.progress("video", done, total);
                                 }};
  auto prepared = processor.prepare(*opened->source, video.kwargs, opened->is_list, watch);
  if (!prepared) return about(video.sources[0], prepared.error());
  const media::VideoInfo& info = opened->source->info();
  const auto fast =
      std::count_if(prepared->marks.begin(), prepared->marks.end(), [](const auto& mark) { return mark.is_fast; });
  std::string line =
      fmt::format("{}: {} of {} frames of {} x {} resized to {} x {} (height x width)", shown, prepared->frames.size(),
                  info.frames, info.height, info.width, prepared->sizes.slow.height, prepared->sizes.slow.width);
  if (fast > 0)
    line += fmt::format(", {} fast ones to {} x {}", fast, prepared->sizes.fast.height, prepared->sizes.fast.width);
  KEYE_TRY_VOID(write_stdout(fmt::format("{}, {} tokens\n", line, prepared->tokens())));
  return prepared;
}

Result<std::vector<prompt::PreparedVideo>> prepare_videos(const Path& folder, const prompt::ImageProcessor& images,
                                                          const VideoFlags& flags, const std::stop_token& stop) {
  std::vector<prompt::PreparedVideo> videos;
  if (!flags.any()) return videos;
  KEYE_TRY(const auto config, engine::read_folder_config(folder));
  KEYE_TRY(const prompt::VideoPolicy policy, video_policy(folder, config.model));
  prompt::VideoRules rules = prompt::VideoProcessor::rules_of(policy, images.config());
  rules.adaptive = flags.adaptive;
  const prompt::VideoProcessor processor(images, rules);
  media::VideoDecoder decoder({});
  for (const prompt::VideoReference& reference : flags.references()) {
    KEYE_TRY(auto video, prepare(processor, reference, command_access(decoder, flags, stop)));
    videos.push_back(std::move(video));
  }
  return videos;
}

Result<void> preprocess(const Flags& flags) {
  const std::stop_token stop = interrupt_token();
  KEYE_TRY(const Path folder, model_folder(flags.model));
  KEYE_TRY(const auto processor, prompt::ImageProcessor::load(folder));
  prompt::ImageOptions options;
  if (flags.min_pixels != 0) options.min_pixels = flags.min_pixels;
  if (flags.max_pixels != 0) options.max_pixels = flags.max_pixels;
  std::vector<prompt::ImagePatches> pictures;
  for (const std::string& reference : flags.images) {
    Result<prompt::ImagePatches> patches = prepare(processor, reference, options);
    if (!patches) return about(reference, patches.error());
    pictures.push_back(std::move(patches).value());
  }
  KEYE_TRY(auto videos, prepare_videos(folder, processor, flags.video, stop));
  Output out;
  if (!pictures.empty()) add_pictures(pictures, processor.config().patch_size, out);
  if (!videos.empty()) add_videos(videos, processor, out);
  return out.write(flags.out);
}

}  // namespace

int cmd_preprocess(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Decodes pictures and videos, resizes them as the model's preprocessor_config.json says and cuts them into "
      "patches: what the vision encoder takes. Writes, of pictures, pixel_values (f32 [patches, 3, patch, patch]) and "
      "image_grid_thw (i64 [pictures, 3]); of all frames of all videos, pixel_values_videos, video_grid_thw (a row for "
      "each frame), video_timestamps (f32, seconds; only if all videos have them), video_frame_types (i32: 0 slow, 1 "
      "fast), video_frame_indices (i64, in the clip) and, for each video, video_frames (i64).",
      "preprocess");
  app.add_option("--model", flags.model, "Folder of the checkpoint (default: the model that comes with the program)")
      ->type_name("DIR");
  app.add_option("--image", flags.images, "A picture: a path, an http(s)://, file:// or data: URI; may be given again")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("F");
  app.add_option("--out", flags.out, "The safetensors file to write")->required()->type_name("F.safetensors");
  const CLI::Range pixels(int64_t{1}, prompt::ImageProcessor::kPixelsMax);
  app.add_option("--min-pixels", flags.min_pixels, "Smaller pictures are enlarged (default: 3136)")
      ->check(pixels)
      ->type_name("N");
  app.add_option("--max-pixels", flags.max_pixels,
                 "Larger pictures are shrunk, before the checkpoint's own limit "
                 "(default: 16056320)")
      ->check(pixels)
      ->type_name("N");
  flags.video.add(app);
  if (const std::optional<int> exit_code = parse_flags(app, argc, argv)) return *exit_code;
  if (flags.images.empty() && !flags.video.any()) return usage_error("preprocess", "give --image, --video or --frames");
  const Result<void> done = preprocess(flags);
  if (!done) clear_progress();
  return done ? kExitOk : report("preprocess", done.error());
}

}  // namespace keye::cli
