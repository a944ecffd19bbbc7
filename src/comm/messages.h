// What nodes and ranks tell each other when they meet, as bytes. Readers take nothing on trust: every length is checked
// before memory is taken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "comm/group.h"

namespace keye::comm {

inline constexpr size_t kMessageBytesMax = size_t{1} << 16;
using Bytes = std::vector<std::byte>;

/// A node's first words to node 0.
struct Hello {
  uint32_t protocol = 0;
  int32_t node = 0, nodes = 0, size = 0;
  int64_t terms_max = 0;
  std::vector<std::pair<std::string, std::string>> agreed;
};
Bytes write_hello(const Hello& hello);
/// Errors: corrupt_data. Of another protocol, only its number is read.
Result<Hello> read_hello(std::span<const std::byte> bytes);
/// What node 0 has differently, with both values; nothing: the two fit. The node's number is the caller's matter.
std::optional<std::string> difference(const Hello& node, const Hello& node0);

/// Node 0's answer, when all are there.
struct Welcome {
  std::vector<std::string> hosts;  // of the nodes
};
Bytes write_welcome(const Welcome& welcome);
Result<Welcome> read_welcome(std::span<const std::byte> bytes);

/// To a further rank of a node, from its first.
struct Join {
  Place place;
  int64_t timeout_ms = 0, meet_timeout_ms = 0;
  int64_t terms_max = 0;
  Digest key;
  std::vector<std::string> hosts;  // of the nodes; empty with one
  uint16_t port = 0;               // of the rendezvous
};
Bytes write_join(const Join& join);
Result<Join> read_join(std::span<const std::byte> bytes);

}  // namespace keye::comm
