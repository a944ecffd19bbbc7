// Resampling, byte for byte as PIL's Image.resize does it on RGB.
#pragma once

#include "media/image.h"

namespace keye::media {

/// PIL's numbers, as preprocessor_config.json spells them.
enum class Resample : uint8_t { bilinear = 2, bicubic = 3 };

/// The picture at another size, both sides at least 1. Separable, columns' weights first: every output pixel is a weighted
/// mean of the input pixels under the kernel, which widens by the ratio when shrinking; weights are rounded to 22 fractional
/// bits and each of the two passes rounds to 8 bits. A side that does not change is not filtered.
/// Besides the result, memory holds as many horizontally resampled rows as the kernel is high.
Image resize(const Image& image, int height, int width, Resample filter);

}  // namespace keye::media
