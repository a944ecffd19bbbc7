#include "media/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <string>

namespace keye::media {
namespace {

std::string judged(const std::string& text) {
  const auto address = parse_ip(text);
  if (!address) return "not an address";
  const std::string_view kind = not_public(*address);
  return kind.empty() ? "public" : std::string(kind);
}

TEST(AddressTest, ParsesOnlyCanonicalIpv4) {
  EXPECT_EQ(to_string(*parse_ip("127.0.0.1")), "127.0.0.1");
  EXPECT_EQ(to_string(*parse_ip("255.255.255.255")), "255.255.255.255");
  for (const char* text :
       {"", "127.1", "127.0.1", "2130706433", "0177.0.0.1", "127.0.0.01", "0x7f.0.0.1", "0x7f000001", "127.0.0.1.",
        "127.0.0.256", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\n", "1.2.3.4.5", "-1.2.3.4"})
    EXPECT_FALSE(parse_ip(text)) << text;
  EXPECT_FALSE(parse_ip(std::string_view("127.0.0.1\0", 10)));
}

TEST(AddressTest, ParsesIpv6WithoutBracketsAndZone) {
  EXPECT_EQ(to_string(*parse_ip("::1")), "::1");
  EXPECT_EQ(to_string(*parse_ip("2606:4700:0000:0:0:0:0:1111")), "2606:4700::1111");
  EXPECT_EQ(to_string(*parse_ip("FE80::A")), "fe80::a");
  EXPECT_EQ(*parse_ip("::ffff:10.0.0.1"), *parse_ip("10.0.0.1"));
  for (const char* text : {"[::1]", "fe80::1%eth0", "fe80::1%25eth0", "::g", ":::", "1::2::3", "::ffff:127.0.0.01"})
    EXPECT_FALSE(parse_ip(text)) << text;
}

TEST(AddressTest, CVE_2025_6242_private_ipv4) {
  const std::pair<const char*, const char*> cases[] = {
      {"0.0.0.0", "this network"},
      {"0.255.255.255", "this network"},
      {"10.0.0.0", "a private network"},
      {"10.255.255.255", "a private network"},
      {"100.64.0.0", "a provider's private network"},
      {"100.127.255.255", "a provider's private network"},
      {"127.0.0.1", "loopback"},
      {"127.255.255.254", "loopback"},
      {"169.254.0.0", "link-local"},
      {"169.254.169.254", "link-local"},
      {"169.254.255.255", "link-local"},
      {"172.16.0.0", "a private network"},
      {"172.31.255.255", "a private network"},
      {"192.0.0.8", "reserved for protocols"},
      {"192.0.2.1", "reserved for documentation"},
      {"192.88.99.1", "reserved for relays"},
      {"192.168.0.0", "a private network"},
      {"192.168.255.255", "a private network"},
      {"198.18.0.0", "reserved for benchmarks"},
      {"198.19.255.255", "reserved for benchmarks"},
      {"198.51.100.7", "reserved for documentation"},
      {"203.0.113.7", "reserved for documentation"},
      {"224.0.0.1", "multicast"},
      {"239.255.255.255", "multicast"},
      {"240.0.0.1", "reserved"},
      {"255.255.255.254", "reserved"},
      {"255.255.255.255", "broadcast"},
  };
  for (const auto& [text, kind] : cases) EXPECT_EQ(judged(text), kind) << text;
}

TEST(AddressTest, PublicIpv4OnBothSidesOfEveryRange) {
  for (const char* text :
       {"1.0.0.0",         "9.255.255.255",   "11.0.0.0",      "100.63.255.255", "100.128.0.0",     "126.255.255.255",
        "128.0.0.0",       "169.253.255.255", "169.255.0.0",   "172.15.255.255", "172.32.0.0",      "191.255.255.255",
        "192.0.1.0",       "192.0.3.0",       "192.88.98.255", "192.88.100.0",   "192.167.255.255", "192.169.0.0",
        "198.17.255.255",  "198.20.0.0",      "198.51.99.255", "198.51.101.0",   "203.0.112.255",   "203.0.114.0",
        "223.255.255.255", "8.8.8.8"})
    EXPECT_EQ(judged(text), "public") << text;
}

TEST(AddressTest, CVE_2025_6242_private_ipv6) {
  const std::pair<const char*, const char*> cases[] = {
      {"::", "this network"},
      {"::1", "loopback"},
      {"fc00::1", "a private network"},
      {"fdff:ffff::1", "a private network"},
      {"fd00:ec2::254", "a private network"},
      {"fe80::1", "link-local"},
      {"febf::1", "link-local"},
      {"fec0::1", "site-local"},
      {"ff02::1", "multicast"},
      {"2001:db8::1", "reserved for documentation"},
      {"3fff::1", "reserved for documentation"},
      {"2001:2::1", "reserved for protocols"},
      {"2001:20::1", "reserved for protocols"},
      {"2001:1ff::1", "reserved for protocols"},
      {"100::1", "reserved"},
      {"64:ff9b:1::a00:1", "reserved"},
      {"5f00::1", "reserved"},
      {"1::1", "reserved"},
      {"4000::1", "reserved"},
  };
  for (const auto& [text, kind] : cases) EXPECT_EQ(judged(text), kind) << text;
  for (const char* text : {"2606:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2001:db7::1", "2001:db9::1",
                           "2003::1", "3ffe::1", "3fff:1000::1", "2a00:1450::1"})
    EXPECT_EQ(judged(text), "public") << text;
}

TEST(AddressTest, CVE_2025_6242_ipv4_inside_ipv6) {
  for (const char* text : {"::ffff:127.0.0.1", "::7f00:1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::1",
                           "2001:0:808:808::80ff:fffe", "2001:0:7f00:1::f7f7:f7f7"})
    EXPECT_EQ(judged(text), "loopback") << text;
  for (const char* text : {"::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"})
    EXPECT_EQ(judged(text), "link-local") << text;
  for (const char* text : {"::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7"})
    EXPECT_EQ(judged(text), "public") << text;
}

TEST(AddressTest, ReadsSocketAddresses) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_addr.s_addr = htonl(0x7f000001);
  EXPECT_EQ(socket_ip(reinterpret_cast<const sockaddr&>(v4)), parse_ip("127.0.0.1"));
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_addr = in6addr_loopback;
  EXPECT_EQ(socket_ip(reinterpret_cast<const sockaddr&>(v6)), parse_ip("::1"));
  sockaddr_un other{};
  other.sun_family = AF_UNIX;
  EXPECT_FALSE(socket_ip(reinterpret_cast<const sockaddr&>(other)));
}

}  // namespace
}  // namespace keye::media
