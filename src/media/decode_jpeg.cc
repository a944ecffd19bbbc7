// JPEG through libjpeg-turbo, with the settings PIL leaves it: accurate integer DCT, smooth chroma upsampling.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include <jpeglib.h>

#include "media/codecs.h"
#include "media/pixels.h"

namespace keye::media {
namespace {

/// A progressive file may hold any number of scans over all its pixels; real ones have about ten. This is scans times
/// pixels: 20 scans of the largest picture.
constexpr int64_t kScannedPixelsMax = int64_t{20} * 178'956'970;
constexpr int kScansMax = 200;

/// What the library calls back into. longjmp leaves only frames of the library and of `run_steps`, which hold nothing
/// that needs a destructor.
struct Session {
  jpeg_decompress_struct library{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX] = {};

  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { jpeg_destroy_decompress(&library); }  // fine for one that was never created, being all zero
};

Session& session_of(j_common_ptr library) { return *static_cast<Session*>(library->client_data); }

[[noreturn]] void on_error(j_common_ptr library) {
  Session& session = session_of(library);
  library->err->format_message(library, session.message);
  std::longjmp(session.escape, 1);
}

void on_message(j_common_ptr) {}  // warnings: PIL is as silent

void on_source(j_decompress_ptr) {}

/// All bytes were given at the start, so a wish for more suspends the decoder: the file is truncated.
boolean on_more_input(j_decompress_ptr) { return FALSE; }

void on_skip(j_decompress_ptr library, long count) {
  jpeg_source_mgr& source = *library->src;
  const size_t skipped = count <= 0 ? 0 : std::min(static_cast<size_t>(count), source.bytes_in_buffer);
  source.next_input_byte += skipped;
  source.bytes_in_buffer -= skipped;
}

void on_progress(j_common_ptr library) {
  Session& session = session_of(library);
  const int scans = session.library.input_scan_number;
  const int64_t pixels = int64_t{session.library.image_height} * session.library.image_width;
  if (scans > kScansMax || scans * pixels > kScannedPixelsMax) {
    std::snprintf(session.message, sizeof session.message, "it has %d scans or more: too many", scans);
    std::longjmp(session.escape, 1);
  }
}

enum class Outcome { done, truncated, failed, other_size };

/// Rows go to `image`; for four components through `row`, which holds one row of them.
Outcome run_steps(Session& session, Image& image, uint8_t* row) {
  jpeg_decompress_struct& library = session.library;
  if (setjmp(session.escape) != 0) return Outcome::failed;

  jpeg_create_decompress(&library);
  library.src = &session.source;
  library.progress = &session.progress;
  int header = jpeg_read_header(&library, FALSE);
  while (header == JPEG_HEADER_TABLES_ONLY) header = jpeg_read_header(&library, FALSE);
  if (header == JPEG_SUSPENDED) return Outcome::truncated;
  if (library.image_height != static_cast<JDIMENSION>(image.height) ||
      library.image_width != static_cast<JDIMENSION>(image.width)) {
    return Outcome::other_size;
  }
  const bool four = library.num_components == 4;
  library.out_color_space = four ? JCS_CMYK : JCS_RGB;
  if (!jpeg_start_decompress(&library)) return Outcome::truncated;

  while (library.output_scanline < library.output_height) {
    uint8_t* out = image.row(static_cast<int>(library.output_scanline));
    JSAMPROW into = four ? row : out;
    if (jpeg_read_scanlines(&library, &into, 1) != 1) return Outcome::truncated;
    if (!four) continue;
    for (int x = 0; x < image.width; ++x) {  // Adobe's convention: 255 is no ink
      const uint8_t* ink = row + 4 * x;
      cmyk_to_rgb(255 - ink[0], 255 - ink[1], 255 - ink[2], 255 - ink[3], out + 3 * x);
    }
  }
  (void)jpeg_finish_decompress(&library);  // suspends where the end marker is missing; the picture is whole
  return Outcome::done;
}

/// The frame header's coding process, precision and components, for files that are well-formed but not ours to read.
Result<void> check_frame(const ByteReader& in) {
  const auto refuse = [](const std::string& what) {
    return make_error(ErrorCode::unsupported, "JPEG",
                      "{}; supported are 8-bit baseline, extended and progressive files of 1, 3 or 4 components", what);
  };
  uint64_t at = 2;
  while (in.has(at, 4)) {  // sniffing has walked here before: a frame header does come
    const uint8_t marker = in.u8(at + 1);
    if (in.u8(at) != 0xff || marker == 0xff) {
      ++at;
      continue;
    }
    if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += 2;
      continue;
    }
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (!frame) {
      at += 2 + std::max<uint64_t>(in.u16be(at + 2), 2);
      continue;
    }
    if (marker == 0xc3 || marker == 0xcb) return refuse("it is a lossless JPEG");
    if (marker > 0xc3 && marker != 0xc9 && marker != 0xca) return refuse("it is a hierarchical JPEG");
    if (in.u8(at + 4) != 8) return refuse(fmt::format("it has {} bits a sample", in.u8(at + 4)));
    const int components = in.u8(at + 9);
    if (components != 1 && components != 3 && components != 4) {
      return refuse(fmt::format("it has {} components", components));
    }
    break;
  }
  return {};
}

}  // namespace

Result<Image> decode_jpeg(Bytes bytes, Size size) {
  KEYE_TRY_VOID(check_frame(ByteReader(bytes)));
  const auto session = std::make_unique<Session>();
  session->library.err = jpeg_std_error(&session->errors);
  session->library.client_data = session.get();
  session->errors.error_exit = on_error;
  session->errors.output_message = on_message;
  session->progress.progress_monitor = on_progress;
  session->source.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
  session->source.bytes_in_buffer = bytes.size();
  session->source.init_source = on_source;
  session->source.fill_input_buffer = on_more_input;
  session->source.skip_input_data = on_skip;
  session->source.resync_to_restart = jpeg_resync_to_restart;
  session->source.term_source = on_source;

  Image image(size.height, size.width);
  std::vector<uint8_t> row(static_cast<size_t>(size.width) * 4);
  switch (run_steps(*session, image, row.data())) {
    case Outcome::done:
      return image;
    case Outcome::truncated:
      return make_error(ErrorCode::corrupt_data, "JPEG", "the file is truncated");
    case Outcome::failed:
      return make_error(ErrorCode::corrupt_data, "JPEG", "{}", session->message);
    case Outcome::other_size:
      break;
  }
  return make_error(ErrorCode::corrupt_data, "JPEG", "two frame headers of different sizes");
}

}  // namespace keye::media
