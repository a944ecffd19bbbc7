// PNG through libpng.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include <png.h>

#include "media/codecs.h"
#include "media/pixels.h"

namespace keye::media {
namespace {

/// What the library calls back into. longjmp leaves only frames of the library and of the steps below, which hold
/// nothing that needs a destructor.
struct Session {
  png_structp library = nullptr;
  png_infop info = nullptr;
  const uint8_t* next = nullptr;
  size_t left = 0;
  bool truncated = false;
  int last_pass = 0;
  png_uint_32 last_row = 0;
  bool last_row_seen = false;
  char message[256] = {};

  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { png_destroy_read_struct(&library, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp library, png_const_charp message) {
  auto* session = static_cast<Session*>(png_get_error_ptr(library));
  std::snprintf(session->message, sizeof session->message, "%s", message);
  png_longjmp(library, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp library, png_bytep out, png_size_t count) {
  auto* session = static_cast<Session*>(png_get_io_ptr(library));
  if (count > session->left) {
    session->truncated = true;
    png_error(library, "the file is truncated");
  }
  std::memcpy(out, session->next, count);
  session->next += count;
  session->left -= count;
}

/// Called with every row once it is decoded. After the last one the picture is whole, whatever is wrong behind it.
void on_row(png_structp library, png_row_infop, png_bytep) {
  auto* session = static_cast<Session*>(png_get_user_transform_ptr(library));
  const png_uint_32 row = png_get_current_row_number(library);
  const int pass = png_get_current_pass_number(library);
  if (pass == session->last_pass && row == session->last_row) session->last_row_seen = true;
}

/// An interlaced picture ends with the last row of the last of seven passes that is not empty.
void find_last_row(Session& session) {
  const png_uint_32 height = png_get_image_height(session.library, session.info);
  const png_uint_32 width = png_get_image_width(session.library, session.info);
  session.last_pass = 0;
  session.last_row = height - 1;
  if (png_get_interlace_type(session.library, session.info) == PNG_INTERLACE_NONE) return;
  for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; ++pass) {
    const png_uint_32 rows = PNG_PASS_ROWS(height, pass);
    if (rows == 0 || PNG_PASS_COLS(width, pass) == 0) continue;
    session.last_pass = pass;
    session.last_row = PNG_ROW_FROM_PASS_ROW(rows - 1, pass);
  }
}

/// `read_bytes`: how much compressed data the library asks for at a time, and gets whole or not at all.
bool read_header(Session& session, Size size, size_t read_bytes) {
  if (setjmp(png_jmpbuf(session.library)) != 0) return false;
  png_set_compression_buffer_size(session.library, read_bytes);
  png_set_read_fn(session.library, &session, on_read);
  png_set_user_limits(session.library, static_cast<png_uint_32>(size.width), static_cast<png_uint_32>(size.height));
  png_set_keep_unknown_chunks(session.library, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);  // text, profiles, times: skipped
  png_read_info(session.library, session.info);
  find_last_row(session);
  return true;
}

/// Rows of 8-bit samples, or of 16-bit ones for grey, as the file has them.
bool read_rows(Session& session, png_bytepp rows) {
  if (setjmp(png_jmpbuf(session.library)) != 0) return session.last_row_seen;
  const int color = png_get_color_type(session.library, session.info);
  if (color == PNG_COLOR_TYPE_GRAY) {
    png_set_expand_gray_1_2_4_to_8(session.library);
  } else {
    png_set_packing(session.library);
    png_set_strip_16(session.library);  // keeps the high byte
  }
  png_set_strip_alpha(session.library);
  png_set_user_transform_info(session.library, &session, 0, 0);
  png_set_read_user_transform_fn(session.library, on_row);
  png_set_interlace_handling(session.library);
  png_read_update_info(session.library, session.info);
  png_read_image(session.library, rows);
  return true;
}

void convert_row(const uint8_t* in, int color, int bits, const Palette& palette, uint8_t* out, int width) {
  if (color == PNG_COLOR_TYPE_PALETTE) {
    palette_to_rgb(in, palette, out, width);
  } else if (bits == 16) {  // grey that PIL holds in 16 bits: above 255 it saturates
    for (int x = 0; x < width; ++x) std::memset(out + 3 * x, in[2 * x] == 0 ? in[2 * x + 1] : 255, 3);
  } else {
    gray_to_rgb(in, out, width);
  }
}

Palette palette_of(const Session& session) {
  Palette palette{};
  png_colorp colors = nullptr;
  int count = 0;
  if (png_get_PLTE(session.library, session.info, &colors, &count) != 0) {
    for (int i = 0; i < count && i < 256; ++i) {
      palette[static_cast<size_t>(i)] = {colors[i].red, colors[i].green, colors[i].blue};
    }
  }
  return palette;
}

Result<Image> decode_once(Session& session, Bytes bytes, Size size, size_t read_bytes) {
  session.next = reinterpret_cast<const uint8_t*>(bytes.data());
  session.left = bytes.size();
  session.library = png_create_read_struct(PNG_LIBPNG_VER_STRING, &session, on_error, on_warning);
  if (session.library != nullptr) session.info = png_create_info_struct(session.library);
  if (session.info == nullptr) return make_error(ErrorCode::internal, "PNG", "libpng does not start");
  const auto failure = [&] { return make_error(ErrorCode::corrupt_data, "PNG", "{}", session.message); };
  if (!read_header(session, size, read_bytes)) return failure();

  const int color = png_get_color_type(session.library, session.info);
  const int bits = png_get_bit_depth(session.library, session.info);
  const bool rgb = color == PNG_COLOR_TYPE_RGB || color == PNG_COLOR_TYPE_RGB_ALPHA;
  const size_t sample_bytes = color == PNG_COLOR_TYPE_GRAY && bits == 16 ? 2 : 1;

  Image image(size.height, size.width);
  // An interlaced picture comes in passes over all rows, so what is not RGB yet is decoded to a plane of its own.
  const size_t plane_stride = rgb ? 0 : static_cast<size_t>(size.width) * sample_bytes;
  std::vector<uint8_t> plane(plane_stride * static_cast<size_t>(size.height));
  std::vector<png_bytep> rows(static_cast<size_t>(size.height));
  for (size_t y = 0; y < rows.size(); ++y) {
    rows[y] = rgb ? image.row(static_cast<int>(y)) : plane.data() + y * plane_stride;
  }
  if (!read_rows(session, rows.data())) return failure();
  if (!rgb) {
    const Palette palette = palette_of(session);
    const int depth = color == PNG_COLOR_TYPE_GRAY ? bits : 8;
    for (int y = 0; y < size.height; ++y) {
      convert_row(rows[static_cast<size_t>(y)], color, depth, palette, image.row(y), size.width);
    }
  }
  return image;
}

}  // namespace

Result<Image> decode_png(Bytes bytes, Size size) {
  Session session;
  Result<Image> image = decode_once(session, bytes, size, 8192);
  if (image || !session.truncated) return image;
  // Only the checksum or the end of a file may be missing, with every pixel there: once more, byte by byte.
  Session careful;
  return decode_once(careful, bytes, size, 1);
}

}  // namespace keye::media
