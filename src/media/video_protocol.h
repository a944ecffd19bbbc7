// What a decoder's process and its parent say to each other: messages of fixed size over a socket pair that keeps their
// borders. Descriptors travel beside them. The parent believes nothing that it is told (media/video_report.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace keye::media {

/// The worker finds its end of the socket pair here.
inline constexpr int kWorkerSocket = 3;

/// From the parent. Each kind uses the fields named with it.
struct WorkerRequest {
  enum class Kind : uint32_t {
    setup,    // memory_max, cpu_seconds, threads, parent, optional: once, first
    open,     // bytes, pixels_max, frames_max; descriptor: the clip. Once.
    read,     // count, slots, slot_bytes; descriptors: the ring of frames, the indices (count times int64)
    release,  // the oldest frame of the ring has been taken
  };
  Kind kind = Kind::setup;
  int32_t threads = 1;
  int64_t memory_max = 0;
  int64_t cpu_seconds = 0;
  int64_t parent = 0;    // process id
  int32_t optional = 0;  // not 0: go on without a sandbox when there can be none
  int32_t slots = 0;
  int64_t bytes = 0;
  int64_t pixels_max = 0;
  int64_t frames_max = 0;
  int64_t count = 0;
  int64_t slot_bytes = 0;
};

/// Why a worker gave up.
enum class VideoFailure : uint32_t {
  none,
  no_library,        // name: what is missing
  no_sandbox,        // a: errno
  not_a_clip,        // of no known container
  other_container,   // name: known by sight, but not read
  broken_container,  // what it begins as, it does not go on as
  no_video,          // no stream of pictures
  other_codec,       // name
  broken_codec,      // the decoder does not take the stream's headers
  no_frames,
  frame_too_large,  // a, b: width and height
  too_many_frames,  // a: the limit
  odd_rotation,     // a: degrees
  out_of_memory,
  protocol,  // the parent said something out of turn
};
inline constexpr uint32_t kVideoFailures = static_cast<uint32_t>(VideoFailure::protocol) + 1;

enum class VideoContainer : uint32_t { mp4, matroska, avi, mpegts, gif };
enum class VideoCodec : uint32_t { h264, hevc, vp8, vp9, av1, mpeg4, gif };
inline constexpr uint32_t kVideoContainers = 5;
inline constexpr uint32_t kVideoCodecs = 7;

/// To the parent.
struct WorkerReport {
  enum class Kind : uint32_t {
    ready,   // sandboxed
    opened,  // width, height, frames, fps, declared_fps, duration_s, container, codec
    frame,   // place: the next one is in the ring
    done,    // missing: frames that others stand in for
    failed,  // failure, a, b, name
  };
  Kind kind = Kind::failed;
  VideoFailure failure = VideoFailure::none;
  int32_t sandboxed = 0;
  int32_t width = 0;
  int32_t height = 0;
  VideoContainer container = VideoContainer::mp4;
  VideoCodec codec = VideoCodec::h264;
  uint32_t reserved = 0;
  int64_t frames = 0;
  double fps = 0;
  double declared_fps = 0;
  double duration_s = 0;
  int64_t place = 0;
  int64_t missing = 0;
  int64_t a = 0;
  int64_t b = 0;
  char name[40] = {};
};

/// Vector code may write a little past the end of a picture.
inline constexpr int64_t kSlotPadding = 64;

/// Bytes of a frame's place in the ring; whole pages.
constexpr int64_t slot_bytes_for(int64_t width, int64_t height) {
  return (width * height * 3 + kSlotPadding + 4095) / 4096 * 4096;
}

}  // namespace keye::media
