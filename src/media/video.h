// Encoded clips to frames. Decoding happens in worker processes that can do nothing but decode: a clip that breaks its
// decoder costs one request.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/descriptor.h"
#include "base/hash.h"
#include "media/frame_source.h"

namespace keye::media {

/// What one clip may cost. Each is checked before what it bounds is spent.
struct VideoLimits {
  int64_t bytes_max = int64_t{4} << 30;   // encoded
  int64_t pixels_max = 8192 * 4352;       // of a frame, height times width
  int64_t frames_max = 4'000'000;         // in the clip, read or not: more than a day at 30 frames a second
  double seconds_max = 600;               // waiting for the worker, in each open() or read(); what `take` needs is free
  int64_t memory_max = int64_t{3} << 29;  // bytes that the worker may ask for beside its program
};

/// Starts `program` with `arguments` as a worker. The program's main must hand over to run_video_worker()
/// (media/video_worker.h) when it is started so.
struct VideoWorkerProgram {
  Path program = "/proc/self/exe";
  std::vector<std::string> arguments = {"video-worker"};
  std::vector<std::string> environment;  // NAME=value; a worker gets nothing else, least of all its parent's secrets
};

struct VideoOptions {
  VideoLimits limits;
  int workers_max = 2;  // processes that decode at the same time; further clips wait
  int threads = 2;      // of each worker's decoder
  /// Decode even where the system has no seccomp: a clip that takes over its decoder then acts as this user.
  bool allow_unsandboxed = false;
  VideoWorkerProgram worker;
};

/// An encoded clip as a descriptor, which the worker reads from; its bytes are never copied again.
class Clip {
 public:
  /// Copies `bytes` into memory of its own. Errors: too_large (over bytes_max), io.
  static Result<Clip> from_bytes(std::string_view bytes, int64_t bytes_max);
  /// A regular file. Errors: not_found, io, too_large.
  static Result<Clip> from_file(const Path& path, int64_t bytes_max);
  /// The same for `path`, an absolute path below `root`, under the rules of media::load_below.
  static Result<Clip> from_file_below(const Path& root, const Path& path, int64_t bytes_max);

  int descriptor() const { return file_.descriptor.get(); }
  int64_t bytes() const { return file_.bytes; }
  /// Names its bytes, all of which are read. Of a file it also says when that was written to last, so that what was
  /// read from one that changed meanwhile is never taken for what the digest was made of. Errors: io, cancelled.
  Result<Digest> digest(const std::stop_token& stop) const;

 private:
  Clip(OpenFile file, bool is_sealed) : file_(std::move(file)), is_sealed_(is_sealed) {}

  OpenFile file_;
  bool is_sealed_;  // nobody can write to it
};

/// Opens clips. One for a server or a command; any thread may use it.
class VideoDecoder {
 public:
  explicit VideoDecoder(VideoOptions options);
  /// Ends all workers that are not reading; the sources opened give errors from then on.
  ~VideoDecoder();

  /// Opens MP4/MOV, Matroska/WebM, AVI, MPEG-TS and GIF with H.264, HEVC, VP8, VP9, AV1, MPEG-4 or GIF in it. Reads the
  /// whole clip once (without decoding it) to count its frames: headers lie.
  ///
  /// Frames are numbered in the order in which they are shown. A clip that breaks off ends with its last whole frame; a
  /// frame inside that cannot be decoded is shown as the one before it, as players do. Pixels are what FFmpeg gives for
  /// `-pix_fmt rgb24`: by the clip's matrix and range, BT.601 and limited where it names none; rotation by quarter
  /// turns and mirroring are applied, interlaced frames are kept as they are, pixels count as square. Frames of another
  /// size than the first are scaled to its size.
  ///
  /// An open clip that is not being read gives its worker up when another clip needs it.
  /// Errors: corrupt_data (no clip, no frames, the worker died of it), unsupported (container, codec, no video stream,
  /// no sandbox), too_large, deadline, cancelled, io.
  Result<std::unique_ptr<FrameSource>> open(Clip clip, std::stop_token stop);

 private:
  std::shared_ptr<class WorkerPool> pool_;
};

}  // namespace keye::media
