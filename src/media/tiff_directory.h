// The first directory of a TIFF file, read without libtiff, which guesses what is missing and does not say so.
#pragma once

#include <algorithm>
#include <optional>

#include "base/result.h"
#include "media/byte_reader.h"

namespace keye::media {

/// Classic TIFF and BigTIFF, either byte order.
class TiffDirectory {
 public:
  /// Errors: corrupt_data (a directory that is not wholly inside the file).
  static Result<TiffDirectory> read(const ByteReader& in) {
    TiffDirectory directory(in);
    const uint64_t place = directory.wide_ ? directory.number(8, 8) : directory.number(4, 4);
    const int count_bytes = directory.wide_ ? 8 : 2;
    directory.first_ = place + static_cast<uint64_t>(count_bytes);
    directory.entries_ = directory.number(place, count_bytes);
    if (!in.has(0, 16) || place == 0 || directory.entries_ > in.size() / directory.entry_bytes() ||
        !in.has(directory.first_, directory.entries_ * directory.entry_bytes())) {
      return make_error(ErrorCode::corrupt_data, "TIFF", "its first directory is not inside the file");
    }
    return directory;
  }

  /// The first value of an unsigned tag that is stored within its entry, cut to 2^40; nothing if the tag is missing, 0
  /// if its value is of another kind.
  std::optional<int64_t> value(uint16_t tag) const {
    for (uint64_t i = 0; i < entries_; ++i) {
      const uint64_t entry = first_ + i * entry_bytes();
      if (number(entry, 2) != tag) continue;
      const uint64_t at = entry + (wide_ ? 12 : 8);
      uint64_t raw = 0;
      switch (number(entry + 2, 2)) {
        case 1:
          raw = number(at, 1);
          break;
        case 3:
          raw = number(at, 2);
          break;
        case 4:
          raw = number(at, 4);
          break;
        case 16:
          raw = wide_ ? number(at, 8) : 0;
          break;
        default:
          break;
      }
      return static_cast<int64_t>(std::min<uint64_t>(raw, uint64_t{1} << 40));
    }
    return std::nullopt;
  }

 private:
  explicit TiffDirectory(const ByteReader& in) : in_(in), little_(in.u8(0) == 'I'), wide_(number(2, 2) == 43) {}

  uint64_t number(uint64_t offset, int count) const {
    return little_ ? in_.little(offset, count) : in_.big(offset, count);
  }
  uint64_t entry_bytes() const { return wide_ ? 20 : 12; }

  ByteReader in_;
  bool little_;
  bool wide_;
  uint64_t first_ = 0;
  uint64_t entries_ = 0;
};

}  // namespace keye::media
