// Numbers at given places of a byte string, each read checked against its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace keye::media {

using Bytes = std::span<const std::byte>;

class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : data_(reinterpret_cast<const uint8_t*>(bytes.data())), size_(bytes.size()) {}

  size_t size() const { return size_; }
  const uint8_t* data() const { return data_; }
  bool has(uint64_t offset, uint64_t count) const { return offset <= size_ && count <= size_ - offset; }
  bool starts_with(std::string_view prefix, size_t offset = 0) const {
    return has(offset, prefix.size()) &&
           std::string_view(reinterpret_cast<const char*>(data_) + offset, prefix.size()) == prefix;
  }

  /// Past the end, these are 0: a caller for whom that is a value asks has() first.
  uint8_t u8(uint64_t offset) const { return has(offset, 1) ? data_[offset] : uint8_t{0}; }
  uint16_t u16le(uint64_t offset) const { return static_cast<uint16_t>(little(offset, 2)); }
  uint16_t u16be(uint64_t offset) const { return static_cast<uint16_t>(big(offset, 2)); }
  uint32_t u24le(uint64_t offset) const { return static_cast<uint32_t>(little(offset, 3)); }
  uint32_t u32le(uint64_t offset) const { return static_cast<uint32_t>(little(offset, 4)); }
  uint32_t u32be(uint64_t offset) const { return static_cast<uint32_t>(big(offset, 4)); }

  uint64_t little(uint64_t offset, int count) const {
    uint64_t value = 0;
    if (!has(offset, static_cast<uint64_t>(count))) return 0;
    for (int i = count - 1; i >= 0; --i) value = value << 8 | data_[offset + static_cast<uint64_t>(i)];
    return value;
  }
  uint64_t big(uint64_t offset, int count) const {
    uint64_t value = 0;
    if (!has(offset, static_cast<uint64_t>(count))) return 0;
    for (int i = 0; i < count; ++i) value = value << 8 | data_[offset + static_cast<uint64_t>(i)];
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace keye::media
