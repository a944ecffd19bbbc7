// Encoded pictures to RGB, byte for byte as PIL's Image.open(file).convert("RGB") gives them.
#pragma once

#include "media/byte_reader.h"
#include "media/image.h"

namespace keye::media {

/// Decodes JPEG, PNG, WebP, GIF, BMP and TIFF, whichever the bytes are; of an animation or a multi-page file the first
/// picture.
///
/// As PIL does it: alpha is dropped, not composited; palettes are expanded and their transparency ignored; 16-bit
/// channels keep the high byte, but 16-bit grey saturates at 255; CMYK and YCCK become RGB by PIL's integer formula,
/// JPEG's taken as inverted; colour profiles and gamma are ignored. Orientation is applied for TIFF and ignored for all
/// others, EXIF in JPEG included.
///
/// Limits are checked against the header before anything is allocated. A truncated file is an error, not half a
/// picture. Errors: unsupported, too_large, corrupt_data.
Result<Image> decode_image(Bytes bytes, const MediaLimits& limits);

}  // namespace keye::media
