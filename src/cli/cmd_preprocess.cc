#include <cstring>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "media/decode.h"
#include "media/fetch.h"
#include "media/load.h"
#include "prompt/image_processor.h"
#include "tensor/safetensors.h"

namespace keye::cli {
namespace {

struct Flags {
  std::string model;
  std::vector<std::string> images;
  std::string out;
  int64_t min_pixels = 0;
  int64_t max_pixels = 0;
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

/// All pictures' patches one after the other, and a row (1, rows, columns) for each picture.
Result<void> write(const std::vector<prompt::ImagePatches>& pictures, int patch, const std::string& out) {
  int64_t count = 0;
  for (const prompt::ImagePatches& picture : pictures) count += picture.pixel_values.shape()[0];
  Tensor pixel_values(DType::f32, {count, 3, patch, patch});
  Tensor grids(DType::i64, {static_cast<int64_t>(pictures.size()), 3});
  auto* to = pixel_values.as<char>();
  auto* grid = grids.as<int64_t>();
  for (const prompt::ImagePatches& picture : pictures) {
    const ConstView from = picture.pixel_values.view();
    std::memcpy(to, from.data, from.bytes());
    to += from.bytes();
    *grid++ = 1;
    *grid++ = picture.grid.rows;
    *grid++ = picture.grid.cols;
  }
  return write_safetensors(out, {{"pixel_values", pixel_values.view()}, {"image_grid_thw", grids.view()}});
}

Result<void> preprocess(const Flags& flags) {
  KEYE_TRY(const Path folder, model_folder(flags.model));
  KEYE_TRY(const auto processor, prompt::ImageProcessor::load(folder));
  prompt::ImageOptions options;
  if (flags.min_pixels != 0) options.min_pixels = flags.min_pixels;
  if (flags.max_pixels != 0) options.max_pixels = flags.max_pixels;
  std::vector<prompt::ImagePatches> pictures;
  for (const std::string& reference : flags.images) {
    Result<prompt::ImagePatches> patches = prepare(processor, reference, options);
    if (!patches) {
      const Error& error = patches.error();
      if (error.where == media::shown_reference(reference)) return error;
      return Error{error.code, error.to_string(), media::shown_reference(reference)};
    }
    pictures.push_back(std::move(patches).value());
  }
  return write(pictures, processor.config().patch_size, flags.out);
}

}  // namespace

int cmd_preprocess(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Decodes pictures, resizes them as the model's preprocessor_config.json says and cuts them into patches: what "
      "the vision encoder takes. Writes pixel_values (f32 [patches, 3, patch, patch]) and image_grid_thw (i64 "
      "[pictures, "
      "3]).",
      "preprocess");
  app.add_option("--model", flags.model, "Folder of the checkpoint (default: the model that comes with the program)")
      ->type_name("DIR");
  app.add_option("--image", flags.images, "A picture: a path, an http(s)://, file:// or data: URI; may be given again")
      ->required()
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
  if (const std::optional<int> exit_code = parse_flags(app, argc, argv)) return *exit_code;
  const Result<void> done = preprocess(flags);
  return done ? kExitOk : report("preprocess", done.error());
}

}  // namespace keye::cli
