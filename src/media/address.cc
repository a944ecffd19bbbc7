#include "media/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <span>

namespace keye::media {
namespace {

constexpr std::array<uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct Range {
  std::array<uint8_t, 16> start;
  int bits;
  std::string_view name;
};

constexpr Range kV4[] = {
    {{0}, 8, "this network"},
    {{10}, 8, "a private network"},
    {{100, 64}, 10, "a provider's private network"},
    {{127}, 8, "loopback"},
    {{169, 254}, 16, "link-local"},
    {{172, 16}, 12, "a private network"},
    {{192, 0, 0}, 24, "reserved for protocols"},
    {{192, 0, 2}, 24, "reserved for documentation"},
    {{192, 88, 99}, 24, "reserved for relays"},
    {{192, 168}, 16, "a private network"},
    {{198, 18}, 15, "reserved for benchmarks"},
    {{198, 51, 100}, 24, "reserved for documentation"},
    {{203, 0, 113}, 24, "reserved for documentation"},
    {{224}, 4, "multicast"},
    {{255, 255, 255, 255}, 32, "broadcast"},
    {{240}, 4, "reserved"},
};

/// Names for what lies outside 2000::/3, and what is set apart inside it.
constexpr Range kV6[] = {
    {{0xfc}, 7, "a private network"},
    {{0xfe, 0x80}, 10, "link-local"},
    {{0xfe, 0xc0}, 10, "site-local"},
    {{0xff}, 8, "multicast"},
    {{0x20, 0x01}, 23, "reserved for protocols"},
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "reserved for documentation"},
    {{0x3f, 0xff}, 20, "reserved for documentation"},
};

constexpr Range kNat64{{0, 0x64, 0xff, 0x9b}, 96, "NAT64"};
constexpr Range kCompatible{{0}, 96, "IPv4-compatible"};  // with :: and ::1
constexpr Range kSixToFour{{0x20, 0x02}, 16, "6to4"};
constexpr Range kTeredo{{0x20, 0x01, 0, 0}, 32, "Teredo"};
constexpr Range kGlobal{{0x20}, 3, "global unicast"};

bool contains(const Range& range, std::span<const uint8_t> address) {
  const size_t whole = static_cast<size_t>(range.bits / 8);
  if (!std::equal(range.start.begin(), range.start.begin() + static_cast<std::ptrdiff_t>(whole), address.begin()))
    return false;
  const int rest = range.bits % 8;
  return rest == 0 || ((range.start[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

using V4 = std::array<uint8_t, 4>;

std::string_view v4_not_public(const V4& address) {
  const auto* found = std::ranges::find_if(kV4, [&](const Range& range) { return contains(range, address); });
  return found == std::end(kV4) ? std::string_view() : found->name;
}

bool is_v4(const IpAddress& address) { return std::equal(kMapped.begin(), kMapped.end(), address.bytes.begin()); }

V4 v4_at(const IpAddress& address, size_t offset, uint8_t inverted = 0) {
  V4 out{};
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(address.bytes[offset + i] ^ inverted);
  return out;
}

IpAddress from_v4(const void* bytes) {
  IpAddress out;
  std::copy(kMapped.begin(), kMapped.end(), out.bytes.begin());
  std::memcpy(out.bytes.data() + kMapped.size(), bytes, 4);
  return out;
}

}  // namespace

std::optional<IpAddress> parse_ip(std::string_view text) {
  const std::string copy(text);
  if (copy.find('\0') != std::string::npos) return std::nullopt;
  in_addr v4{};
  if (::inet_pton(AF_INET, copy.c_str(), &v4) == 1) return from_v4(&v4);
  IpAddress out;
  if (::inet_pton(AF_INET6, copy.c_str(), out.bytes.data()) == 1) return out;
  return std::nullopt;
}

std::optional<IpAddress> socket_ip(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address, sizeof(v4));
    return from_v4(&v4.sin_addr);
  }
  if (address.sa_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address, sizeof(v6));
    IpAddress out;
    std::memcpy(out.bytes.data(), &v6.sin6_addr, out.bytes.size());
    return out;
  }
  return std::nullopt;
}

std::string to_string(const IpAddress& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (is_v4(address)) {
    ::inet_ntop(AF_INET, address.bytes.data() + kMapped.size(), text.data(), text.size());
  } else {
    ::inet_ntop(AF_INET6, address.bytes.data(), text.data(), text.size());
  }
  return text.data();
}

std::string_view not_public(const IpAddress& address) {
  if (is_v4(address) || contains(kNat64, address.bytes)) return v4_not_public(v4_at(address, 12));
  if (contains(kCompatible, address.bytes)) {
    const IpAddress loopback{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
    return address == loopback ? "loopback" : v4_not_public(v4_at(address, 12));
  }
  if (contains(kSixToFour, address.bytes)) return v4_not_public(v4_at(address, 2));
  if (contains(kTeredo, address.bytes)) {  // the relay's address, and the host's with every bit turned (RFC 4380)
    const std::string_view server = v4_not_public(v4_at(address, 4));
    return server.empty() ? v4_not_public(v4_at(address, 12, 0xff)) : server;
  }
  for (const Range& range : kV6) {
    if (contains(range, address.bytes)) return range.name;
  }
  return contains(kGlobal, address.bytes) ? std::string_view() : "reserved";
}

}  // namespace keye::media
