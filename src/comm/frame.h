// What goes over a link: a header of fixed size, then so many bytes. Numbers as x86 and ARM store them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace keye::comm {

/// To be raised with every change of what nodes say to each other.
inline constexpr uint32_t kProtocol = 1;

enum class FrameKind : uint16_t {
  hello = 1,     // a node's first words: messages.h
  welcome,       // all nodes are there
  refused,       // text
  greet,         // a rank's first words on a link for data: its number
  beat,          // I am here
  loss,          // text: the run is over
  goodbye,       // rank 0: the run is over, and all is well
  segment,       // of a sum; the number of the collective
  abandon,       // in place of a segment, or instead of the verdict on a gathering
  piece,         // of a part that is gathered: of the rank; is_last
  settled,       // the gathering is over
  message,       // of rank 0
  ranks_joined,  // this node's ranks have all their links
};
inline constexpr uint16_t kLastFrameKind = static_cast<uint16_t>(FrameKind::ranks_joined);

struct FrameHeader {
  uint32_t magic = 0x3159454bU;  // "KEY1"
  FrameKind kind = FrameKind::beat;
  uint16_t is_last = 0;
  uint64_t collective = 0;
  uint64_t rank = 0;
  uint64_t bytes = 0;  // that follow
};
static_assert(sizeof(FrameHeader) == 32);

/// Nothing: that is no header of ours.
inline std::optional<FrameHeader> read_frame_header(std::span<const std::byte, sizeof(FrameHeader)> bytes) {
  FrameHeader header;
  uint16_t kind = 0;
  std::memcpy(&kind, bytes.data() + offsetof(FrameHeader, kind), sizeof kind);
  if (kind == 0 || kind > kLastFrameKind) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != FrameHeader().magic || header.bytes >= uint64_t{1} << 32) return std::nullopt;
  return header;
}

}  // namespace keye::comm
