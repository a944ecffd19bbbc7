// The containers and codecs that clips may use; everything else is refused by its name.
#pragma once

#include <string_view>

#include "media/byte_reader.h"
#include "media/video_protocol.h"

namespace keye::media {

/// "mp4", "h264".
std::string_view video_container_name(VideoContainer container);
std::string_view video_codec_name(VideoCodec codec);

/// FFmpeg's names of what reads them.
const char* ffmpeg_demuxer_name(VideoContainer container);
const char* ffmpeg_decoder_name(VideoCodec codec);

struct VideoSniff {
  bool known = false;
  VideoContainer container = VideoContainer::mp4;
  /// When not known: what it looks like, or empty.
  std::string_view other;
};

/// By the first bytes of a clip (kVideoSniffBytes of them, or all it has). No more than this decides which demuxer
/// sees the clip: playlists, which name other files, never reach one.
inline constexpr size_t kVideoSniffBytes = 1024;
VideoSniff sniff_video(Bytes head);

}  // namespace keye::media
