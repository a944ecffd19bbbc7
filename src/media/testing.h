// For tests of pictures: sample files and the hashes that the goldens store.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "media/byte_reader.h"
#include "media/image.h"

namespace keye::media::testing {

inline Bytes bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// In hexadecimal.
inline std::string sha256(Bytes bytes) { return keye::sha256(bytes).hex(); }
inline std::string sha256(const Image& image) { return sha256(std::as_bytes(std::span(image.rgb))); }

}  // namespace keye::media::testing
