// For tests of clips: opening and reading in one call, and workers that misbehave.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "media/clip_testing.h"
#include "media/video.h"

namespace keye::media::testing {

/// Workers are this test program itself.
inline VideoOptions options() {
  VideoOptions out;
#if defined(__SANITIZE_THREAD__)
  out.worker.environment = {"TSAN_OPTIONS=report_bugs=0"};  // it does not see what FFmpeg's threads wait for
#endif
  return out;
}

inline Result<std::unique_ptr<FrameSource>> open_clip(VideoDecoder& decoder, const std::string& bytes) {
  KEYE_TRY(Clip clip, Clip::from_bytes(bytes, int64_t{1} << 30));
  return decoder.open(std::move(clip), {});
}

inline Result<std::vector<Image>> read_frames(FrameSource& source, std::span<const int64_t> indices) {
  std::vector<Image> frames;
  const auto take = [&](size_t place, Image&& frame) -> Result<void> {
    KEYE_CHECK(place == frames.size(), "place {} after {} frames", place, frames.size());
    frames.push_back(std::move(frame));
    return {};
  };
  KEYE_TRY_VOID(source.read(indices, take, {}));
  return frames;
}

inline Result<std::vector<int64_t>> read_numbers(FrameSource& source, std::span<const int64_t> indices) {
  KEYE_TRY(const std::vector<Image> frames, read_frames(source, indices));
  std::vector<int64_t> numbers;
  for (const Image& frame : frames) numbers.push_back(frame_number(frame));
  return numbers;
}

/// A worker that does what `fault` says instead of decoding. Returns its exit code.
int run_broken_worker(std::string_view fault);

}  // namespace keye::media::testing
