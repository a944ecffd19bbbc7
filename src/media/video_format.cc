#include "media/video_format.h"

#include <algorithm>
#include <iterator>

namespace keye::media {
namespace {

using namespace std::string_view_literals;

struct ContainerNames {
  std::string_view name;
  const char* demuxer;
};
constexpr ContainerNames kContainers[kVideoContainers] = {
    {"mp4", "mov"}, {"matroska", "matroska"}, {"avi", "avi"}, {"mpegts", "mpegts"}, {"gif", "gif"}};

struct CodecNames {
  std::string_view name;
  const char* decoder;
};
constexpr CodecNames kCodecs[kVideoCodecs] = {{"h264", "h264"},    {"hevc", "hevc"},   {"vp8", "vp8"}, {"vp9", "vp9"},
                                              {"av1", "libdav1d"}, {"mpeg4", "mpeg4"}, {"gif", "gif"}};

struct Signature {
  size_t offset;
  std::string_view bytes;
  std::string_view name;
};
/// What people send and we do not read.
constexpr Signature kOthers[] = {
    {0, "#EXTM3U"sv, "an HLS playlist"},
    {0, "\xef\xbb\xbf#EXTM3U"sv, "an HLS playlist"},
    {0, "ffconcat"sv, "an ffconcat list"},
    {0, "<?xml"sv, "XML (a DASH manifest?)"},
    {0, "<MPD"sv, "a DASH manifest"},
    {0, "v=0\r\n"sv, "an SDP session"},
    {0, "FLV\1"sv, "FLV"},
    {0, "\0\0\1\xba"sv, "an MPEG program stream"},
    {0, "\0\0\1\xb3"sv, "a bare MPEG-1/2 video stream"},
    {0, "\0\0\0\1"sv, "a bare H.264 or HEVC stream"},
    {0, "\x30\x26\xb2\x75\x8e\x66\xcf\x11"sv, "ASF (WMV)"},
    {0, "OggS"sv, "Ogg"},
    {0, "DKIF"sv, "IVF"},
    {0, "YUV4MPEG2"sv, "Y4M"},
    {8, "WAVE"sv, "WAV (sound)"},
    {0, "ID3"sv, "MP3 (sound)"},
    {0, "fLaC"sv, "FLAC (sound)"},
    {0, "\xff\xfb"sv, "MP3 (sound)"},
    {0, "\xff\xd8\xff"sv, "JPEG (a picture)"},
    {0, "\x89PNG"sv, "PNG (a picture)"},
    {8, "WEBP"sv, "WebP (a picture)"},
    {0, "BM"sv, "BMP (a picture)"},
    {0, "<!DOCTYPE"sv, "HTML"},
    {0, "<html"sv, "HTML"},
    {0, "PK\3\4"sv, "ZIP"},
};

/// Boxes that QuickTime and MP4 files begin with.
bool is_mp4(const ByteReader& in) {
  constexpr std::string_view kBoxes[] = {"ftyp", "moov", "mdat", "wide", "free", "skip", "pnot", "styp", "moof"};
  return std::any_of(std::begin(kBoxes), std::end(kBoxes),
                     [&](std::string_view box) { return in.starts_with(box, 4); });
}

/// Packets of 188 bytes; of 192 where a time stands before each (Blu-ray); of 204 with a checksum behind.
bool is_mpegts(const ByteReader& in) {
  constexpr struct { size_t first, step; } kLayouts[] = {{0, 188}, {4, 192}, {0, 204}};
  return std::any_of(std::begin(kLayouts), std::end(kLayouts), [&](const auto& layout) {
    size_t at = layout.first;
    for (; in.has(at, 1); at += layout.step) {
      if (in.u8(at) != 0x47) return false;
    }
    return at >= layout.first + 2 * layout.step;
  });
}

VideoSniff known(VideoContainer container) { return {true, container, {}}; }

}  // namespace

std::string_view video_container_name(VideoContainer container) {
  return kContainers[static_cast<size_t>(container)].name;
}
std::string_view video_codec_name(VideoCodec codec) { return kCodecs[static_cast<size_t>(codec)].name; }
const char* ffmpeg_demuxer_name(VideoContainer container) {
  return kContainers[static_cast<size_t>(container)].demuxer;
}
const char* ffmpeg_decoder_name(VideoCodec codec) { return kCodecs[static_cast<size_t>(codec)].decoder; }

VideoSniff sniff_video(Bytes head) {
  const ByteReader in(head.first(std::min(head.size(), kVideoSniffBytes)));
  if (in.starts_with("\x1a\x45\xdf\xa3")) return known(VideoContainer::matroska);
  if (in.starts_with("RIFF") && in.starts_with("AVI ", 8)) return known(VideoContainer::avi);
  if (in.starts_with("GIF87a") || in.starts_with("GIF89a")) return known(VideoContainer::gif);
  if (is_mp4(in)) return known(VideoContainer::mp4);
  if (is_mpegts(in)) return known(VideoContainer::mpegts);
  for (const Signature& other : kOthers) {
    if (in.starts_with(other.bytes, other.offset)) return {false, VideoContainer::mp4, other.name};
  }
  return {};
}

}  // namespace keye::media
