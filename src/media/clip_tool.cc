// For tests and scripts: makes clips, and reads clips as `keye` would, in workers that are this program itself.
//   clip_tool make PATH NAME=VALUE...      writes a clip (the names: ClipRecipe's; mux_X: the muxer's; others: the
//   encoder's) clip_tool rgb PATH [INDEX...]          all frames, or those, as RGB to standard output clip_tool time
//   PATH STEP HEIGHT WIDTH  every STEP-th frame, resized if HEIGHT is not 0: seconds and peak memory clip_tool check
//   for each path on standard input a line of JSON
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "media/clip_testing.h"
#include "media/resize.h"
#include "media/video.h"
#include "media/video_worker.h"

namespace {

using namespace keye;
using media::testing::ClipRecipe;

void set(ClipRecipe& recipe, const std::string& name, const std::string& value) {
  const std::map<std::string, int ClipRecipe::*> numbers = {{"width", &ClipRecipe::width},
                                                            {"height", &ClipRecipe::height},
                                                            {"frames", &ClipRecipe::frames},
                                                            {"fps", &ClipRecipe::fps},
                                                            {"gop", &ClipRecipe::gop},
                                                            {"b_frames", &ClipRecipe::b_frames},
                                                            {"rotation", &ClipRecipe::rotation},
                                                            {"colour_space", &ClipRecipe::colour_space},
                                                            {"colour_range", &ClipRecipe::colour_range},
                                                            {"plain", &ClipRecipe::plain}};
  if (name == "mirrored") recipe.mirrored = value == "1";
  const std::map<std::string, std::string ClipRecipe::*> texts = {
      {"format", &ClipRecipe::format}, {"codec", &ClipRecipe::codec}, {"pixels", &ClipRecipe::pixels}};
  if (const auto number = numbers.find(name); number != numbers.end()) {
    recipe.*number->second = std::atoi(value.c_str());
  } else if (const auto text = texts.find(name); text != texts.end()) {
    recipe.*text->second = value;
  } else if (name.starts_with("mux_")) {
    recipe.muxing[name.substr(4)] = value;
  } else if (name != "mirrored") {
    recipe.options[name] = value;
  }
}

Result<void> make(const std::vector<std::string>& words) {
  ClipRecipe recipe;
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    set(recipe, words[i].substr(0, equals), words[i].substr(std::min(words[i].size(), equals + 1)));
  }
  return write_file(words.at(0), media::testing::make_clip(recipe));
}

media::VideoOptions options() {
  media::VideoOptions out;
  out.limits.bytes_max = int64_t{1} << 40;
  out.limits.seconds_max = 3600;
  return out;
}

Result<std::unique_ptr<media::FrameSource>> open(media::VideoDecoder& decoder, const std::string& path) {
  KEYE_TRY(media::Clip clip, media::Clip::from_file(path, int64_t{1} << 40));
  return decoder.open(std::move(clip), {});
}

std::vector<int64_t> every(const media::FrameSource& source, int64_t step) {
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < source.info().frames; i += step) indices.push_back(i);
  return indices;
}

Result<void> rgb(const std::vector<std::string>& words) {
  media::VideoDecoder decoder(options());
  KEYE_TRY(const auto source, open(decoder, words.at(0)));
  std::vector<int64_t> indices;
  for (size_t i = 1; i < words.size(); ++i) indices.push_back(std::stoll(words[i]));
  if (indices.empty()) indices = every(*source, 1);
  const auto write = [](size_t, media::Image&& frame) -> Result<void> {
    std::fwrite(frame.rgb.data(), 1, frame.rgb.size(), stdout);
    return {};
  };
  return source->read(indices, write, {});
}

double peak_mb(int who) {
  rusage usage{};
  ::getrusage(who, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

Result<void> time(const std::vector<std::string>& words) {
  const auto begin = std::chrono::steady_clock::now();
  const int height = std::stoi(words.at(2));
  const int width = std::stoi(words.at(3));
  {
    media::VideoDecoder decoder(options());
    KEYE_TRY(const auto source, open(decoder, words.at(0)));
    const auto opened = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::fprintf(stderr, "opened after %.2f s: %s, %lld frames\n", opened, source->info().format.c_str(),
                 static_cast<long long>(source->info().frames));
    const auto take = [&](size_t, media::Image&& frame) -> Result<void> {
      if (height == 0) return {};
      const media::Image small = media::resize(frame, height, width, media::Resample::bilinear);
      std::fwrite(small.rgb.data(), 1, small.rgb.size(), stdout);
      return {};
    };
    KEYE_TRY_VOID(source->read(every(*source, std::stoll(words.at(1))), take, {}));
  }
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::fprintf(stderr, "seconds %.3f peak_mb %.1f worker_peak_mb %.1f\n", seconds, peak_mb(RUSAGE_SELF),
               peak_mb(RUSAGE_CHILDREN));
  return {};
}

/// What a server would do with each clip: an error, or frames.
void check() {
  media::VideoOptions limited;
  limited.limits.seconds_max = 20;
  media::VideoDecoder decoder(limited);
  std::string path;
  while (std::getline(std::cin, path)) {
    int64_t frames = 0;
    const auto take = [&](size_t, media::Image&&) -> Result<void> {
      ++frames;
      return {};
    };
    Result<void> outcome;
    if (auto source = open(decoder, path); !source) {
      outcome = source.error();
    } else {
      outcome = (*source)->read(every(**source, 3), take, {});
    }
    const std::string_view code = outcome ? "ok" : error_code_name(outcome.error().code);
    std::cout << fmt::format(R"({{"code": "{}", "frames": {}, "message": "{}"}})", code, frames,
                             outcome ? "" : outcome.error().message)
              << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + std::min(argc, 2), argv + argc);
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (verb == "video-worker") media::run_video_worker();
  Result<void> outcome = Error{ErrorCode::invalid_argument, "usage: clip_tool make|rgb|time|check", ""};
  if (verb == "make" && !words.empty()) outcome = make(words);
  if (verb == "rgb" && !words.empty()) outcome = rgb(words);
  if (verb == "time" && words.size() == 4) outcome = time(words);
  if (verb == "check") {
    check();
    outcome = {};
  }
  if (outcome) return 0;
  std::fprintf(stderr, "clip_tool: %s\n", outcome.error().to_string().c_str());
  return 1;
}
