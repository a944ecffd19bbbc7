#include "media/ffmpeg_input.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <span>
#include <vector>

namespace keye::media {
namespace {

constexpr int kBufferBytes = 1 << 16;
constexpr const char* kDecoders = "h264,hevc,vp8,vp9,libdav1d,mpeg4,gif";

int refuse_to_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) { return AVERROR(EPERM); }

std::optional<VideoCodec> known_codec(AVCodecID id) {
  switch (id) {
    case AV_CODEC_ID_H264:
      return VideoCodec::h264;
    case AV_CODEC_ID_HEVC:
      return VideoCodec::hevc;
    case AV_CODEC_ID_VP8:
      return VideoCodec::vp8;
    case AV_CODEC_ID_VP9:
      return VideoCodec::vp9;
    case AV_CODEC_ID_AV1:
      return VideoCodec::av1;
    case AV_CODEC_ID_MPEG4:
      return VideoCodec::mpeg4;
    case AV_CODEC_ID_GIF:
      return VideoCodec::gif;
    default:
      return std::nullopt;
  }
}

VideoProblem problem(VideoFailure reason) { return {reason, 0, 0, {}}; }

/// What FFmpeg's return code means for a clip whose container was recognised.
VideoProblem container_problem(int code) {
  return problem(code == AVERROR(ENOMEM) ? VideoFailure::out_of_memory : VideoFailure::broken_container);
}

}  // namespace

void FfmpegInput::close() {
  stream_ = nullptr;
  if (format_ != nullptr) ffmpeg().avformat_close_input(&format_);
  if (io_ != nullptr) {
    ffmpeg().av_freep(&io_->buffer);
    ffmpeg().avio_context_free(&io_);
  }
}

VideoProblem FfmpegInput::open(const ClipFile& file) {
  close();
  file_ = file;
  position_ = 0;
  std::array<std::byte, kVideoSniffBytes> head{};
  const int got = read_bytes(this, reinterpret_cast<uint8_t*>(head.data()), static_cast<int>(head.size()));
  position_ = 0;
  const VideoSniff sniff = sniff_video(std::span(head).first(static_cast<size_t>(std::max(got, 0))));
  if (!sniff.known) {
    return {sniff.other.empty() ? VideoFailure::not_a_clip : VideoFailure::other_container, 0, 0, sniff.other};
  }
  container_ = sniff.container;
  if (const VideoProblem failed = open_container()) return failed;
  return choose_stream();
}

VideoProblem FfmpegInput::open_container() {
  const Ffmpeg& ff = ffmpeg();
  const char* demuxer = ffmpeg_demuxer_name(container_);
  const AVInputFormat* format = ff.av_find_input_format(demuxer);
  if (format == nullptr) return {VideoFailure::no_library, 0, 0, video_container_name(container_)};
  format_ = ff.avformat_alloc_context();
  auto* buffer = static_cast<unsigned char*>(ff.av_malloc(kBufferBytes));
  if (format_ == nullptr || buffer == nullptr) return problem(VideoFailure::out_of_memory);
  io_ = ff.avio_alloc_context(buffer, kBufferBytes, 0, this, read_bytes, nullptr, seek_bytes);
  if (io_ == nullptr) return problem(VideoFailure::out_of_memory);
  format_->pb = io_;
  format_->flags |= AVFMT_FLAG_CUSTOM_IO;
  format_->io_open = refuse_to_open;  // names of other files inside the clip lead nowhere
  AVDictionary* options = nullptr;
  ff.av_dict_set(&options, "format_whitelist", demuxer, 0);
  ff.av_dict_set(&options, "codec_whitelist", kDecoders, 0);
  if (container_ == VideoContainer::gif) ff.av_dict_set(&options, "ignore_loop", "1", 0);
  const int code = ff.avformat_open_input(&format_, nullptr, format, &options);  // frees format_ when it fails
  ff.av_dict_free(&options);
  if (code < 0) return container_problem(code);
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    AVStream& stream = *format_->streams[i];
    if (stream.codecpar->codec_type != AVMEDIA_TYPE_VIDEO) stream.discard = AVDISCARD_ALL;
  }
  return find_streams();
}

VideoProblem FfmpegInput::find_streams() {
  const Ffmpeg& ff = ffmpeg();
  // Some streams show what they are only when a decoder has looked at their first frames.
  std::vector<AVDictionary*> options(format_->nb_streams, nullptr);
  for (AVDictionary*& each : options) ff.av_dict_set_int(&each, "max_pixels", file_.pixels_max, 0);
  const int code = ff.avformat_find_stream_info(format_, options.data());
  for (AVDictionary*& each : options) ff.av_dict_free(&each);
  return code < 0 ? container_problem(code) : VideoProblem{};
}

VideoProblem FfmpegInput::choose_stream() {
  const Ffmpeg& ff = ffmpeg();
  const int best = ff.av_find_best_stream(format_, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (best < 0 || (format_->streams[best]->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) {
    return problem(VideoFailure::no_video);
  }
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    if (static_cast<int>(i) != best) format_->streams[i]->discard = AVDISCARD_ALL;
  }
  stream_ = format_->streams[best];
  const AVCodecParameters& codec = *stream_->codecpar;
  const std::optional<VideoCodec> known = known_codec(codec.codec_id);
  if (!known) return {VideoFailure::other_codec, 0, 0, ff.avcodec_get_name(codec.codec_id)};
  codec_ = *known;
  if (int64_t{codec.width} * codec.height > file_.pixels_max) {
    return {VideoFailure::frame_too_large, codec.width, codec.height, {}};
  }
  return {};
}

bool FfmpegInput::read(AVPacket& packet) {
  constexpr int kTriesMax = 1000;
  for (int tries = 0; tries < kTriesMax;) {
    ffmpeg().av_packet_unref(&packet);
    const int code = ffmpeg().av_read_frame(format_, &packet);
    if (code == AVERROR(EAGAIN)) {
      ++tries;
      continue;
    }
    if (code < 0) return false;
    // A packet without data would tell the decoder that the clip ends.
    if (packet.stream_index == stream_->index && packet.size > 0) return true;
  }
  return false;
}

bool FfmpegInput::seek(int64_t timestamp) {
  if (container_ == VideoContainer::avi || container_ == VideoContainer::gif) return false;
  return ffmpeg().avformat_seek_file(format_, stream_->index, INT64_MIN, timestamp, timestamp, 0) >= 0;
}

int FfmpegInput::read_bytes(void* self, uint8_t* out, int count) {
  auto& input = *static_cast<FfmpegInput*>(self);
  const int64_t left = input.file_.bytes - input.position_;
  if (left <= 0) return AVERROR_EOF;
  const auto wanted = static_cast<size_t>(std::min<int64_t>(count, left));
  ssize_t got = -1;
  do {
    got = ::pread(input.file_.descriptor, out, wanted, input.position_);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return got == 0 ? AVERROR_EOF : AVERROR(errno);
  input.position_ += got;
  return static_cast<int>(got);
}

int64_t FfmpegInput::seek_bytes(void* self, int64_t offset, int whence) {
  auto& input = *static_cast<FfmpegInput*>(self);
  int64_t target = offset;
  switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE:
      return input.file_.bytes;
    case SEEK_CUR:
      if (__builtin_add_overflow(input.position_, offset, &target)) return AVERROR(EINVAL);
      break;
    case SEEK_END:
      if (__builtin_add_overflow(input.file_.bytes, offset, &target)) return AVERROR(EINVAL);
      break;
    case SEEK_SET:
      break;
    default:
      return AVERROR(EINVAL);
  }
  if (target < 0) return AVERROR(EINVAL);
  return input.position_ = target;
}

}  // namespace keye::media
