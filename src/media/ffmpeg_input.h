// A clip's container: its stream of pictures as packets. Runs in the worker only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "media/ffmpeg_library.h"
#include "media/video_format.h"
#include "media/video_protocol.h"

namespace keye::media {

/// Why it cannot go on; reason `none` is success.
struct VideoProblem {
  VideoFailure reason = VideoFailure::none;
  int64_t a = 0;
  int64_t b = 0;
  std::string_view name;  // static, or FFmpeg's

  explicit operator bool() const { return reason != VideoFailure::none; }
};

struct ClipFile {
  int descriptor = -1;
  int64_t bytes = 0;
  int64_t pixels_max = 0;
  int64_t frames_max = 0;
};

struct FreePacket {
  void operator()(AVPacket* packet) const { ffmpeg().av_packet_free(&packet); }
};
using PacketPtr = std::unique_ptr<AVPacket, FreePacket>;

class FfmpegInput {
 public:
  FfmpegInput() = default;
  FfmpegInput(const FfmpegInput&) = delete;
  FfmpegInput& operator=(const FfmpegInput&) = delete;
  ~FfmpegInput() { close(); }

  /// From the start, whatever was open before. Only the demuxer that the first bytes name is asked; nothing but
  /// `file` can be read.
  VideoProblem open(const ClipFile& file);

  VideoContainer container() const { return container_; }
  VideoCodec codec() const { return codec_; }
  const AVStream& stream() const { return *stream_; }

  /// The next packet with data of the stream. False at the end, which a broken clip reaches early.
  bool read(AVPacket& packet);

  /// To a packet at or before `timestamp`, if all goes well. Never goes well in AVI and GIF.
  bool seek(int64_t timestamp);

 private:
  void close();
  VideoProblem open_container();
  VideoProblem find_streams();
  VideoProblem choose_stream();
  static int read_bytes(void* self, uint8_t* out, int count);
  static int64_t seek_bytes(void* self, int64_t offset, int whence);

  ClipFile file_;
  int64_t position_ = 0;
  AVIOContext* io_ = nullptr;
  AVFormatContext* format_ = nullptr;
  const AVStream* stream_ = nullptr;
  VideoContainer container_ = VideoContainer::mp4;
  VideoCodec codec_ = VideoCodec::h264;
};

}  // namespace keye::media
