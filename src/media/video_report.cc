#include "media/video_report.h"

#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <string>

#include "media/video_format.h"

namespace keye::media {
namespace {

constexpr std::string_view kWhere = "video";
constexpr std::string_view kContainerNames = "MP4/MOV, Matroska/WebM, AVI, MPEG-TS and GIF";
constexpr std::string_view kCodecNames = "H.264, HEVC, VP8, VP9, AV1, MPEG-4 and GIF";

/// Letters, digits and what stands in names; a worker's text steers nobody's terminal.
std::string clean_name(const WorkerReport& report) {
  constexpr std::string_view kAlso = " .,-_/()?";
  std::string out;
  for (const char c : std::string_view(report.name, ::strnlen(report.name, sizeof(report.name)))) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (plain || kAlso.find(c) != std::string_view::npos) out += c;
  }
  return out.empty() ? "unknown" : out;
}

bool is_rate(double value) { return std::isfinite(value) && value >= 0 && value < 1e9; }

Error corrupt(std::string_view message) { return Error{ErrorCode::corrupt_data, std::string(message), "video"}; }

Error unsupported_error(const WorkerReport& report) {
  const auto refuse = [](std::string message) { return Error{ErrorCode::unsupported, std::move(message), "video"}; };
  switch (report.failure) {
    case VideoFailure::no_library:
      return refuse(
          fmt::format("{} of FFmpeg is not installed here; install the libraries of FFmpeg 5.1 (Debian: "
                      "libavformat59 libavcodec59 libswscale6), or send frames as pictures",
                      clean_name(report)));
    case VideoFailure::no_sandbox:
      return refuse(
          fmt::format("this system does not let a process give up its rights (seccomp: error {}), and clips "
                      "are not decoded without that; send frames as pictures",
                      report.a));
    case VideoFailure::other_container:
      return refuse(fmt::format("this is {}; supported are {}", clean_name(report), kContainerNames));
    case VideoFailure::other_codec:
      return refuse(fmt::format("the codec is {}; supported are {}", clean_name(report), kCodecNames));
    case VideoFailure::odd_rotation:
      return refuse(fmt::format("it is to be shown turned by {} degrees; supported are quarter turns", report.a));
    default:
      return refuse("the clip holds no stream of pictures (sound only?)");
  }
}

}  // namespace

Result<VideoInfo> check_opened(const WorkerReport& report, const VideoLimits& limits) {
  const bool sizes = report.width > 0 && report.height > 0 && report.frames > 0;
  const bool rates =
      is_rate(report.fps) && is_rate(report.declared_fps) && std::isfinite(report.duration_s) && report.duration_s >= 0;
  const bool names =
      static_cast<uint32_t>(report.container) < kVideoContainers && static_cast<uint32_t>(report.codec) < kVideoCodecs;
  if (!sizes || !rates || !names) return corrupt("the clip's decoder reports sizes or rates that cannot be");
  if (int64_t{report.width} * report.height > limits.pixels_max) {
    return make_error(ErrorCode::too_large, kWhere, "frames of {} x {} pixels, over the limit of {} pixels",
                      report.width, report.height, limits.pixels_max);
  }
  if (report.frames > limits.frames_max) {
    return make_error(ErrorCode::too_large, kWhere, "{} frames, over the limit of {}", report.frames,
                      limits.frames_max);
  }
  VideoInfo info;
  info.width = report.width;
  info.height = report.height;
  info.frames = report.frames;
  info.fps = report.fps;
  info.declared_fps = report.declared_fps;
  info.duration_s = report.duration_s;
  info.format = fmt::format("{}, {}", video_container_name(report.container), video_codec_name(report.codec));
  return info;
}

Error failure_error(const WorkerReport& report, const VideoLimits& limits) {
  switch (report.failure) {
    case VideoFailure::no_library:
    case VideoFailure::no_sandbox:
    case VideoFailure::other_container:
    case VideoFailure::no_video:
    case VideoFailure::other_codec:
    case VideoFailure::odd_rotation:
      return unsupported_error(report);
    case VideoFailure::not_a_clip:
      return corrupt(fmt::format("this is no video that is known here; supported are {}", kContainerNames));
    case VideoFailure::broken_container:
      return corrupt("the container is broken or incomplete");
    case VideoFailure::broken_codec:
      return corrupt("the decoder does not take the headers of the video stream");
    case VideoFailure::no_frames:
      return corrupt(
          fmt::format("the clip holds no frame that can be decoded within the limit of {} pixels", limits.pixels_max));
    case VideoFailure::frame_too_large:
      return make_error(ErrorCode::too_large, kWhere, "frames of {} x {} pixels, over the limit of {} pixels", report.a,
                        report.b, limits.pixels_max);
    case VideoFailure::too_many_frames:
      return make_error(ErrorCode::too_large, kWhere, "more than {} frames, which is the limit", limits.frames_max);
    case VideoFailure::out_of_memory:
      return make_error(ErrorCode::too_large, kWhere, "decoding needs more than {} bytes of memory, which is the limit",
                        limits.memory_max);
    default:
      return corrupt("the clip's decoder reports what cannot be");
  }
}

Error death_error(bool known, int status) {
  if (known && WIFSIGNALED(status)) {
    switch (WTERMSIG(status)) {
      case SIGSYS:
        return corrupt("the clip made its decoder try what its sandbox forbids; the decoder was ended");
      case SIGXCPU:
        return Error{ErrorCode::deadline, "decoding takes more processor time than it may", "video"};
      case SIGKILL:
        return Error{ErrorCode::unavailable, "the decoder was killed, by the system's lack of memory?", "video"};
      default:
        return corrupt(fmt::format("the clip's decoder died of it (signal {})", WTERMSIG(status)));
    }
  }
  return corrupt("the clip's decoder ended in the middle");
}

}  // namespace keye::media
