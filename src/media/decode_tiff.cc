// TIFF through libtiff: the first directory, strips or tiles.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>

#include <tiffio.h>

#include "media/codecs.h"
#include "media/tiff_directory.h"
#include "media/tiff_layout.h"

namespace keye::media {
namespace {

/// What the library calls back into.
struct Session {
  const uint8_t* data = nullptr;
  uint64_t size = 0;
  uint64_t at = 0;
  char message[256] = {};  // of the first error
};

Session& session_of(thandle_t handle) { return *static_cast<Session*>(handle); }

tmsize_t on_read(thandle_t handle, void* out, tmsize_t count) {
  Session& session = session_of(handle);
  if (session.at >= session.size || count <= 0) return 0;
  const uint64_t taken = std::min(static_cast<uint64_t>(count), session.size - session.at);
  std::memcpy(out, session.data + session.at, taken);
  session.at += taken;
  return static_cast<tmsize_t>(taken);
}

tmsize_t on_write(thandle_t, void*, tmsize_t) { return 0; }

toff_t on_seek(thandle_t handle, toff_t offset, int whence) {
  Session& session = session_of(handle);
  session.at = whence == SEEK_SET ? offset : (whence == SEEK_CUR ? session.at : session.size) + offset;
  return session.at;
}

int on_close(thandle_t) { return 0; }
toff_t on_size(thandle_t handle) { return session_of(handle).size; }

int on_map(thandle_t handle, void** base, toff_t* size) {
  *base = const_cast<uint8_t*>(session_of(handle).data);  // libtiff asks for a writable pointer and only reads
  *size = session_of(handle).size;
  return 1;
}

void on_unmap(thandle_t, void*, toff_t) {}

int on_error(TIFF*, void* user, const char*, const char* format, va_list arguments) {
  Session& session = *static_cast<Session*>(user);
  if (session.message[0] == 0) std::vsnprintf(session.message, sizeof session.message, format, arguments);
  return 1;  // handled: the library's global handler, which prints, is not called
}

int on_warning(TIFF*, void*, const char*, const char*, va_list) { return 1; }

struct Closer {
  void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Handle = std::unique_ptr<TIFF, Closer>;

Handle open(Session& session, size_t bytes_max) {
  TIFFOpenOptions* options = TIFFOpenOptionsAlloc();
  TIFFOpenOptionsSetMaxSingleMemAlloc(options, static_cast<tmsize_t>(bytes_max));
  TIFFOpenOptionsSetErrorHandlerExtR(options, on_error, &session);
  TIFFOpenOptionsSetWarningHandlerExtR(options, on_warning, &session);
  Handle tiff(TIFFClientOpenExt("picture", "rC", &session, on_read, on_write, on_seek, on_close, on_size, on_map,
                                on_unmap, options));
  TIFFOpenOptionsFree(options);
  return tiff;
}

/// As the file has them: where libtiff makes up a photometric interpretation or extra samples, that is undone.
TiffTags read_tags(TIFF* tiff, const TiffDirectory& directory) {
  const auto number = [&](uint32_t tag, int otherwise) {
    uint16_t value = 0;
    return TIFFGetField(tiff, tag, &value) == 1 ? int{value} : otherwise;
  };
  TiffTags tags;
  tags.compression = number(TIFFTAG_COMPRESSION, 1);
  tags.photometric = static_cast<int>(directory.value(TIFFTAG_PHOTOMETRIC).value_or(0));
  tags.planar = number(TIFFTAG_PLANARCONFIG, 1);
  tags.fill_order = number(TIFFTAG_FILLORDER, 1);
  tags.bits = number(TIFFTAG_BITSPERSAMPLE, 1);
  tags.samples = number(TIFFTAG_SAMPLESPERPIXEL, 1);
  tags.sample_format = number(TIFFTAG_SAMPLEFORMAT, 1);
  tags.big_endian = TIFFIsBigEndian(tiff) != 0;
  uint16_t count = 0;
  uint16_t* kinds = nullptr;
  if (directory.value(TIFFTAG_EXTRASAMPLES) && TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &count, &kinds) == 1) {
    tags.extra.assign(kinds, kinds + count);
  }
  return tags;
}

Result<Palette> read_palette(TIFF* tiff, int bits) {
  Palette palette{};
  uint16_t* channels[3] = {};
  if (TIFFGetField(tiff, TIFFTAG_COLORMAP, &channels[0], &channels[1], &channels[2]) != 1) {
    return make_error(ErrorCode::corrupt_data, "TIFF", "a palette picture without a palette");
  }
  for (size_t i = 0; i < size_t{1} << bits; ++i) {
    for (size_t c = 0; c < 3; ++c) palette[i][c] = static_cast<uint8_t>(channels[c][i] >> 8);
  }
  return palette;
}

/// Those that PIL opens, without old-style JPEG (6): its files are rare, ambiguous and a known source of trouble.
Result<void> check_compression(int compression) {
  constexpr uint16_t kRead[] = {COMPRESSION_NONE,          COMPRESSION_CCITTRLE,  COMPRESSION_CCITTFAX3,
                                COMPRESSION_CCITTFAX4,     COMPRESSION_LZW,       COMPRESSION_JPEG,
                                COMPRESSION_ADOBE_DEFLATE, COMPRESSION_CCITTRLEW, COMPRESSION_PACKBITS,
                                COMPRESSION_THUNDERSCAN,   COMPRESSION_DEFLATE,   COMPRESSION_LZMA,
                                COMPRESSION_ZSTD,          COMPRESSION_WEBP};
  for (const uint16_t read : kRead) {
    if (compression == read && TIFFIsCODECConfigured(read)) return {};
  }
  return make_error(
      ErrorCode::unsupported, "TIFF",
      "compression {}; supported are none, CCITT, LZW, JPEG (7), Deflate, PackBits, ThunderScan and, where "
      "libtiff has them, LZMA, Zstandard and WebP",
      compression);
}

class Decoder {
 public:
  Decoder(TIFF* tiff, Session& session, const TiffLayout& layout, Image& image, size_t bytes_max)
      : tiff_(tiff), session_(session), layout_(layout), image_(image), bytes_max_(bytes_max) {}

  Result<void> run() {
    if (layout_.color == TiffColor::palette) {
      KEYE_TRY(palette_, read_palette(tiff_, layout_.bits));
    }
    if (layout_.color == TiffColor::jpeg_rgb) TIFFSetField(tiff_, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    if (layout_.color == TiffColor::as_rgba) return read_as_rgba();
    return read_blocks();
  }

 private:
  Error failure() const {
    return make_error(ErrorCode::corrupt_data, "TIFF", "{}",
                      session_.message[0] != 0 ? session_.message : "the pixels cannot be read");
  }

  /// Strips and tiles alike: blocks of rows by columns, those of all planes of one place together.
  Result<void> read_blocks() {
    const bool tiled = TIFFIsTiled(tiff_) != 0;
    uint32_t block_width = static_cast<uint32_t>(image_.width);
    uint32_t block_height = static_cast<uint32_t>(image_.height);
    if (tiled) {
      TIFFGetField(tiff_, TIFFTAG_TILEWIDTH, &block_width);
      TIFFGetField(tiff_, TIFFTAG_TILELENGTH, &block_height);
    } else {
      TIFFGetField(tiff_, TIFFTAG_ROWSPERSTRIP, &block_height);
      block_height = std::min(block_height, static_cast<uint32_t>(image_.height));
    }
    const auto block_bytes =
        static_cast<size_t>(std::max<tmsize_t>(0, tiled ? TIFFTileSize(tiff_) : TIFFStripSize(tiff_)));
    const auto row_bytes =
        static_cast<size_t>(std::max<tmsize_t>(0, tiled ? TIFFTileRowSize(tiff_) : TIFFScanlineSize(tiff_)));
    const size_t needed = (size_t{block_width} * static_cast<size_t>(layout_.bits * layout_.samples) + 7) / 8;
    if (block_width == 0 || block_height == 0 || row_bytes != needed || block_bytes < row_bytes * block_height) {
      return make_error(ErrorCode::corrupt_data, "TIFF", "its strips or tiles are not of the size its tags say");
    }
    if (block_bytes * static_cast<size_t>(layout_.planes) > bytes_max_) {
      return make_error(ErrorCode::too_large, "TIFF", "strips or tiles of {} bytes for {} x {} pixels", block_bytes,
                        image_.width, image_.height);
    }
    std::vector<uint8_t> block(block_bytes * static_cast<size_t>(layout_.planes));
    for (int y = 0; y < image_.height; y += static_cast<int>(block_height)) {
      for (int x = 0; x < image_.width; x += static_cast<int>(block_width)) {
        for (int plane = 0; plane < layout_.planes; ++plane) {
          uint8_t* into = block.data() + static_cast<size_t>(plane) * block_bytes;
          if (!read_block(tiled, x, y, plane, into, block_bytes)) return failure();
        }
        const int columns = std::min(static_cast<int>(block_width), image_.width - x);
        const int rows = std::min(static_cast<int>(block_height), image_.height - y);
        for (int row = 0; row < rows; ++row) {
          store_row(block.data() + static_cast<size_t>(row) * row_bytes, block_bytes, x, y + row, columns);
        }
      }
    }
    return {};
  }

  bool read_block(bool tiled, int x, int y, int plane, uint8_t* into, size_t bytes) {
    const auto column = static_cast<uint32_t>(x);
    const auto row = static_cast<uint32_t>(y);
    const auto sample = static_cast<uint16_t>(plane);
    if (tiled) return TIFFReadTile(tiff_, into, column, row, 0, sample) != -1;
    return TIFFReadEncodedStrip(tiff_, TIFFComputeStrip(tiff_, row, sample), into, static_cast<tmsize_t>(bytes)) != -1;
  }

  void store_row(const uint8_t* in, size_t plane_stride, int x, int y, int columns) {
    uint8_t* out = image_.row(y) + 3 * static_cast<size_t>(x);
    if (layout_.planes == 1) return tiff_row_to_rgb(layout_, palette_, in, out, columns);
    const size_t sample_bytes = static_cast<size_t>(layout_.bits) / 8;
    const size_t planes = static_cast<size_t>(layout_.planes);
    interleaved_.resize(static_cast<size_t>(columns) * planes * sample_bytes);
    for (size_t p = 0; p < planes; ++p) {
      for (size_t i = 0; i < static_cast<size_t>(columns); ++i) {
        std::memcpy(&interleaved_[(i * planes + p) * sample_bytes], in + p * plane_stride + i * sample_bytes,
                    sample_bytes);
      }
    }
    TiffLayout whole = layout_;
    whole.samples = layout_.planes;
    tiff_row_to_rgb(whole, palette_, interleaved_.data(), out, columns);
  }

  /// Subsampled YCbCr, where strips hold no plain rows: libtiff converts, block after block of rows.
  Result<void> read_as_rgba() {
    uint32_t block_height = 0;
    const bool known = TIFFGetFieldDefaulted(tiff_, TIFFIsTiled(tiff_) ? TIFFTAG_TILELENGTH : TIFFTAG_ROWSPERSTRIP,
                                             &block_height) == 1;
    if (!known || block_height == 0) block_height = UINT32_MAX;
    const int height = static_cast<int>(std::min(block_height, static_cast<uint32_t>(image_.height)));
    char message[1024] = {};
    TIFFRGBAImage converter;
    if (!TIFFRGBAImageOK(tiff_, message) || !TIFFRGBAImageBegin(&converter, tiff_, 0, message)) {
      return make_error(ErrorCode::corrupt_data, "TIFF", "{}", message);
    }
    const std::unique_ptr<TIFFRGBAImage, decltype(&TIFFRGBAImageEnd)> cleanup(&converter, TIFFRGBAImageEnd);
    converter.orientation = ORIENTATION_TOPLEFT;
    converter.req_orientation = ORIENTATION_TOPLEFT;
    const size_t width = static_cast<size_t>(image_.width);
    std::vector<uint32_t> pixels(width * static_cast<size_t>(height));
    for (int y = 0; y < image_.height; y += height) {
      const int rows = std::min(height, image_.height - y);
      converter.col_offset = 0;
      converter.row_offset = y;
      if (!TIFFRGBAImageGet(&converter, pixels.data(), static_cast<uint32_t>(width), static_cast<uint32_t>(rows))) {
        return failure();
      }
      for (int row = 0; row < rows; ++row) {
        uint8_t* out = image_.row(y + row);
        for (size_t x = 0; x < width; ++x) {
          const uint32_t pixel = pixels[static_cast<size_t>(row) * width + x];
          out[3 * x] = static_cast<uint8_t>(TIFFGetR(pixel));
          out[3 * x + 1] = static_cast<uint8_t>(TIFFGetG(pixel));
          out[3 * x + 2] = static_cast<uint8_t>(TIFFGetB(pixel));
        }
      }
    }
    return {};
  }

  TIFF* tiff_;
  Session& session_;
  TiffLayout layout_;
  Image& image_;
  size_t bytes_max_;
  Palette palette_{};
  std::vector<uint8_t> interleaved_;
};

/// TIFF's orientation tag, which, unlike EXIF's in JPEG, PIL applies: 2..8 are flips and quarter turns.
Image oriented(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool transposed = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image out = transposed ? Image(image.width, image.height) : Image(image.height, image.width);
  for (int y = 0; y < out.height; ++y) {
    uint8_t* to = out.row(y);
    for (int x = 0; x < out.width; ++x) {
      const int row = transposed ? x : y;
      const int column = transposed ? y : x;
      const uint8_t* from = image.row(flip_y ? image.height - 1 - row : row) +
                            3 * static_cast<size_t>(flip_x ? image.width - 1 - column : column);
      std::memcpy(to + 3 * static_cast<size_t>(x), from, 3);
    }
  }
  return out;
}

}  // namespace

Result<Image> decode_tiff(Bytes bytes, Size size) {
  Session session;
  session.data = reinterpret_cast<const uint8_t*>(bytes.data());
  session.size = bytes.size();
  const size_t pixels = static_cast<size_t>(size.height) * static_cast<size_t>(size.width);
  const size_t bytes_max = pixels * 8 + bytes.size() + (size_t{16} << 20);
  const Handle tiff = open(session, bytes_max);
  if (tiff == nullptr) {
    return make_error(ErrorCode::corrupt_data, "TIFF", "{}",
                      session.message[0] != 0 ? session.message : "it cannot be opened");
  }
  uint32_t width = 0;
  uint32_t height = 0;
  TIFFGetField(tiff.get(), TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(tiff.get(), TIFFTAG_IMAGELENGTH, &height);
  if (width != static_cast<uint32_t>(size.width) || height != static_cast<uint32_t>(size.height)) {
    return make_error(ErrorCode::corrupt_data, "TIFF", "its size is given twice, differently");
  }
  KEYE_TRY(const TiffDirectory directory, TiffDirectory::read(ByteReader(bytes)));
  const TiffTags tags = read_tags(tiff.get(), directory);
  KEYE_TRY_VOID(check_compression(tags.compression));
  KEYE_TRY(const TiffLayout layout, tiff_layout(tags));
  uint16_t orientation = 1;
  TIFFGetField(tiff.get(), TIFFTAG_ORIENTATION, &orientation);
  uint16_t subsampling[2] = {1, 1};
  if (layout.color == TiffColor::ycbcr) {
    TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_YCBCRSUBSAMPLING, &subsampling[0], &subsampling[1]);
    if (subsampling[0] != 1 || subsampling[1] != 1) {
      return make_error(ErrorCode::unsupported, "TIFF", "uncompressed YCbCr with subsampled colour ({} x {})",
                        subsampling[0], subsampling[1]);
    }
  }
  Image image(size.height, size.width);
  KEYE_TRY_VOID(Decoder(tiff.get(), session, layout, image, bytes_max).run());
  return oriented(std::move(image), orientation);
}

}  // namespace keye::media
