// IP addresses, and which of them belong to the public internet.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

struct sockaddr;

namespace keye::media {

/// An IPv6 address in network order; an IPv4 address is held as ::ffff:a.b.c.d, as a dual-stack socket sees it.
struct IpAddress {
  std::array<uint8_t, 16> bytes{};

  bool operator==(const IpAddress&) const = default;
};

/// Canonical dotted decimal (four numbers without leading zeros) or IPv6 without brackets and zone; nothing else, so no
/// octal, hexadecimal or shortened IPv4.
std::optional<IpAddress> parse_ip(std::string_view text);

/// The address of an IPv4 or IPv6 socket; nothing for other families.
std::optional<IpAddress> socket_ip(const sockaddr& address);

/// The one text of an address: dotted decimal for IPv4, RFC 5952 for IPv6.
std::string to_string(const IpAddress& address);

/// What keeps `address` from being a host on the public internet, for a message ("a private network"), or empty when
/// nothing does. Addresses that carry an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) are judged by it.
/// Source: the IANA special-purpose registries (RFC 6890 and its updates); of IPv6, only 2000::/3 is handed out.
std::string_view not_public(const IpAddress& address);

}  // namespace keye::media
