// What a file is, from its bytes alone: names and suffixes say nothing.
#pragma once

#include "base/result.h"
#include "media/byte_reader.h"

namespace keye::media {

enum class ImageFormat : uint8_t { jpeg, png, webp, gif, bmp, tiff };

std::string_view image_format_name(ImageFormat format);

/// As the header declares it, before anything is decoded. For GIF the canvas, enlarged to hold the first frame.
struct ImageInfo {
  ImageFormat format = ImageFormat::png;
  int64_t height = 0;
  int64_t width = 0;
};

/// Reads the header. Sizes are not judged here (see check_size). Errors: unsupported, naming the format that was
/// recognised; corrupt_data for a known format with a header that cannot be read.
Result<ImageInfo> sniff_image(Bytes bytes);

}  // namespace keye::media
