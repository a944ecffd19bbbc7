#include "media/sniff.h"

#include <algorithm>

#include "media/tiff_directory.h"

namespace keye::media {
namespace {

constexpr std::string_view kSupported = "supported are JPEG, PNG, WebP, GIF, BMP and TIFF";

struct Signature {
  size_t offset;
  std::string_view bytes;
  std::string_view name;
};

using namespace std::string_view_literals;

/// Formats that people send and we do not read, so that the refusal can name them.
constexpr Signature kUnsupported[] = {
    {4, "ftypavif"sv, "AVIF"},
    {4, "ftypavis"sv, "AVIF"},
    {4, "ftypheic"sv, "HEIC"},
    {4, "ftypheix"sv, "HEIC"},
    {4, "ftyphevc"sv, "HEIC"},
    {4, "ftypmif1"sv, "HEIF"},
    {4, "ftypmsf1"sv, "HEIF"},
    {4, "ftypcrx "sv, "Canon raw (CR3)"},
    {4, "ftyp"sv, "MP4 or QuickTime (a video, not a picture)"},
    {4, "JXL \r\n\x87\n"sv, "JPEG XL"},
    {0, "\xff\x0a"sv, "JPEG XL"},
    {4, "jP  \r\n\x87\n"sv, "JPEG 2000"},
    {0, "\xff\x4f\xff\x51"sv, "JPEG 2000"},
    {0, "\0\0\1\0"sv, "ICO"},
    {0, "\0\0\2\0"sv, "CUR"},
    {0, "icns"sv, "ICNS"},
    {0, "8BPS"sv, "Photoshop (PSD)"},
    {0, "qoif"sv, "QOI"},
    {0, "DDS "sv, "DDS"},
    {0, "\x76\x2f\x31\x01"sv, "OpenEXR"},
    {0, "#?RADIANCE"sv, "Radiance HDR"},
    {0, "\x59\xa6\x6a\x95"sv, "Sun raster"},
    {0, "\x01\xda"sv, "SGI"},
    {0, "SIMPLE  ="sv, "FITS"},
    {0, "%!PS"sv, "PostScript"},
    {0, "%PDF"sv, "PDF"},
    {0, "<svg"sv, "SVG"},
    {0, "<?xml"sv, "XML (SVG?)"},
    {0, "<!DOCTYPE"sv, "HTML"},
    {0, "<!doctype"sv, "HTML"},
    {0, "<html"sv, "HTML"},
    {0, "P1"sv, "PBM"},
    {0, "P2"sv, "PGM"},
    {0, "P3"sv, "PPM"},
    {0, "P4"sv, "PBM"},
    {0, "P5"sv, "PGM"},
    {0, "P6"sv, "PPM"},
    {0, "P7"sv, "PAM"},
    {0, "\x1a\x45\xdf\xa3"sv, "Matroska or WebM (a video, not a picture)"},
    {8, "AVI "sv, "AVI (a video, not a picture)"},
    {8, "WAVE"sv, "WAV (sound, not a picture)"},
    {0, "PK\3\4"sv, "ZIP"},
    {0, "\x1f\x8b"sv, "gzip"},
};

Error corrupt(ImageFormat format, std::string_view what) {
  return make_error(ErrorCode::corrupt_data, image_format_name(format), "{}", what);
}

/// The size stands in the first frame header (SOF0..SOF15 without DHT, JPG and DAC); what comes before it is skipped.
Result<ImageInfo> sniff_jpeg(const ByteReader& in) {
  uint64_t at = 2;
  while (in.has(at, 2)) {
    if (in.u8(at) != 0xff) {  // junk between segments
      ++at;
      continue;
    }
    const uint8_t marker = in.u8(at + 1);
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    at += 2;
    const bool alone = marker == 0x00 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    if (alone) continue;
    if (marker == 0xd9 || marker == 0xda) break;
    if (!in.has(at, 2)) break;
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame) {
      if (!in.has(at, 8)) break;
      return ImageInfo{ImageFormat::jpeg, in.u16be(at + 3), in.u16be(at + 5)};
    }
    at += std::max<uint64_t>(in.u16be(at), 2);
  }
  return corrupt(ImageFormat::jpeg, "no frame header: the file is truncated or damaged");
}

Result<ImageInfo> sniff_png(const ByteReader& in) {
  if (!in.has(0, 33) || !in.starts_with("IHDR", 12)) {
    return corrupt(ImageFormat::png, "no IHDR chunk: the file is truncated or damaged");
  }
  return ImageInfo{ImageFormat::png, in.u32be(20), in.u32be(16)};
}

Result<ImageInfo> sniff_webp(const ByteReader& in) {
  constexpr auto kFormat = ImageFormat::webp;
  if (in.starts_with("VP8 ", 12)) {
    if (!in.has(0, 30) || !in.starts_with("\x9d\x01\x2a", 23))
      return corrupt(kFormat, "the key frame header is damaged");
    return ImageInfo{kFormat, in.u16le(28) & 0x3fff, in.u16le(26) & 0x3fff};
  }
  if (in.starts_with("VP8L", 12)) {
    if (!in.has(0, 25) || in.u8(20) != 0x2f) return corrupt(kFormat, "the lossless header is damaged");
    const uint32_t bits = in.u32le(21);
    return ImageInfo{kFormat, ((bits >> 14) & 0x3fff) + 1, (bits & 0x3fff) + 1};
  }
  if (in.starts_with("VP8X", 12)) {
    if (!in.has(0, 30)) return corrupt(kFormat, "the file ends inside its header");
    return ImageInfo{kFormat, int64_t{in.u24le(27)} + 1, int64_t{in.u24le(24)} + 1};
  }
  return corrupt(kFormat, "the first chunk is none of VP8, VP8L, VP8X");
}

Result<ImageInfo> sniff_gif(const ByteReader& in) {
  if (!in.has(0, 13)) return corrupt(ImageFormat::gif, "the file ends inside its header");
  ImageInfo info{ImageFormat::gif, in.u16le(8), in.u16le(6)};
  uint64_t at = 13;
  if (in.u8(10) & 0x80) at += uint64_t{3} << ((in.u8(10) & 7) + 1);
  while (in.has(at, 1)) {
    const uint8_t kind = in.u8(at++);
    if (kind == '!') {  // an extension: a label, then blocks up to an empty one
      ++at;
      while (in.has(at, 1) && in.u8(at) != 0) at += uint64_t{in.u8(at)} + 1;
      ++at;
    } else if (kind == ',') {
      if (!in.has(at, 9)) break;
      info.width = std::max<int64_t>(info.width, in.u16le(at) + in.u16le(at + 4));
      info.height = std::max<int64_t>(info.height, in.u16le(at + 2) + in.u16le(at + 6));
      return info;
    } else if (kind == ';') {
      break;
    }
  }
  return corrupt(ImageFormat::gif, "it holds no picture: the file is truncated or damaged");
}

Result<ImageInfo> sniff_bmp(const ByteReader& in) {
  const uint32_t header = in.u32le(14);
  if (header == 12) {
    if (!in.has(0, 26)) return corrupt(ImageFormat::bmp, "the file ends inside its header");
    return ImageInfo{ImageFormat::bmp, in.u16le(20), in.u16le(18)};
  }
  if (!in.has(0, 54)) return corrupt(ImageFormat::bmp, "the file ends inside its header");
  const int64_t height = static_cast<int32_t>(in.u32le(22));  // negative: rows run from top to bottom
  return ImageInfo{ImageFormat::bmp, height < 0 ? -height : height, in.u32le(18)};
}

Result<ImageInfo> sniff_tiff(const ByteReader& in) {
  KEYE_TRY(const TiffDirectory directory, TiffDirectory::read(in));
  const std::optional<int64_t> width = directory.value(256);
  const std::optional<int64_t> height = directory.value(257);
  if (!width || !height) return corrupt(ImageFormat::tiff, "its first directory has no width or no height");
  return ImageInfo{ImageFormat::tiff, *height, *width};
}

bool is_tiff(const ByteReader& in) {
  return in.starts_with("II\x2a\0"sv) || in.starts_with("MM\0\x2a"sv) || in.starts_with("II\x2b\0"sv) ||
         in.starts_with("MM\0\x2b"sv);
}

}  // namespace

std::string_view image_format_name(ImageFormat format) {
  switch (format) {
    case ImageFormat::jpeg:
      return "JPEG";
    case ImageFormat::png:
      return "PNG";
    case ImageFormat::webp:
      return "WebP";
    case ImageFormat::gif:
      return "GIF";
    case ImageFormat::bmp:
      return "BMP";
    case ImageFormat::tiff:
      return "TIFF";
  }
  return "?";
}

Result<ImageInfo> sniff_image(Bytes bytes) {
  const ByteReader in(bytes);
  if (in.starts_with("\xff\xd8\xff")) return sniff_jpeg(in);
  if (in.starts_with("\x89PNG\r\n\x1a\n")) return sniff_png(in);
  if (in.starts_with("RIFF") && in.starts_with("WEBP", 8)) return sniff_webp(in);
  if (in.starts_with("GIF87a") || in.starts_with("GIF89a")) return sniff_gif(in);
  if (in.starts_with("BM")) return sniff_bmp(in);
  if (is_tiff(in)) return sniff_tiff(in);
  for (const Signature& signature : kUnsupported) {
    if (in.starts_with(signature.bytes, signature.offset)) {
      return make_error(ErrorCode::unsupported, "picture", "the format {} is not supported; {}", signature.name,
                        kSupported);
    }
  }
  if (in.size() == 0) return make_error(ErrorCode::corrupt_data, "picture", "it is empty");
  return make_error(ErrorCode::unsupported, "picture", "its first bytes are of no known picture format; {}",
                    kSupported);
}

}  // namespace keye::media
