// Any bytes as what a worker reports: what is believed lies within the limits, and what is said of the rest can be
// shown to anybody. The same bytes as the head of a clip.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "media/video_format.h"
#include "media/video_report.h"

namespace {

using namespace keye;

bool is_plain(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto sniff = media::sniff_video(std::as_bytes(std::span(data, size)));
  KEYE_CHECK(!sniff.known || sniff.other.empty(), "known, and something else");

  media::WorkerReport report;
  std::memcpy(&report, data, std::min(size, sizeof(report)));
  const media::VideoLimits limits;
  if (const auto info = media::check_opened(report, limits)) {
    KEYE_CHECK(int64_t{info->width} * info->height <= limits.pixels_max && info->width > 0, "{}", info->width);
    KEYE_CHECK(info->frames > 0 && info->frames <= limits.frames_max, "{}", info->frames);
    KEYE_CHECK(std::isfinite(info->fps) && info->fps >= 0 && std::isfinite(info->duration_s), "{}", info->fps);
    KEYE_CHECK(is_plain(info->format), "{}", info->format);
  } else {
    KEYE_CHECK(is_plain(info.error().message), "{}", info.error().message);
  }
  const Error failure = media::failure_error(report, limits);
  KEYE_CHECK(is_plain(failure.message) && !failure.message.empty(), "{}", failure.message);
  return 0;
}
