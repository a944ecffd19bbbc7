// Resampling, byte for byte as PIL's Image.resize does it on RGB (Pillow 13; before it, rows always came first).
#pragma once

#include "media/image.h"

namespace keye::media {

/// PIL's numbers, as preprocessor_config.json spells them.
enum class Resample : uint8_t { bilinear = 2, bicubic = 3 };

/// The picture at another size, both sides at least 1. Every output pixel is a weighted mean of the input pixels under
/// the kernel, which widens by the ratio when shrinking. It is separable: rows are filtered, then columns; columns come
/// first where the height loses pixels and more than twice as many as the width. Weights are rounded to 22 fractional
/// bits, each pass rounds to 8 bits, and a side that does not change is not filtered. Besides the result, memory holds
/// as many filtered rows as the kernel is high.
Image resize(const Image& image, int height, int width, Resample filter);

/// A frame of a video at another size, byte for byte as torch's interpolate(mode="bilinear", antialias=True) does it on
/// bytes (2.x, CPU): the bilinear filter as above, but always rows first, and with weights of 16 bits: as many
/// fractional bits as the largest weight of the axis leaves.
Image resize_frame(const Image& image, int height, int width);

}  // namespace keye::media
