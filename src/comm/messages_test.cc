// What nodes tell each other when they meet, whole, cut and wrong; and how ranks share processors.
#include "comm/messages.h"

#include <gtest/gtest.h>

#include "comm/frame.h"
#include "comm/link.h"
#include "comm/processors.h"

namespace keye::comm {
namespace {

Hello some_hello() {
  Hello hello;
  hello.protocol = kProtocol;
  hello.node = 1;
  hello.nodes = 2;
  hello.size = 16;
  hello.terms_max = 7168;
  hello.agreed = {{"version", "0.1.0"}, {"model", "abc"}, {"--dtype", ""}};
  return hello;
}

TEST(MessagesTest, AHelloComesBackWholeAndNotCut) {
  const Bytes bytes = write_hello(some_hello());
  const auto hello = read_hello(bytes);
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->agreed, some_hello().agreed);
  EXPECT_EQ(hello->size, 16);
  for (size_t length = 4; length < bytes.size(); ++length) {
    EXPECT_FALSE(read_hello(std::span(bytes).first(length)).has_value()) << length;
  }
  Bytes longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(read_hello(longer).has_value());
}

TEST(MessagesTest, DifferencesAreNamedWithBothValues) {
  const Hello node0 = some_hello();
  const auto difference_of = [&](auto change) {
    Hello node = some_hello();
    change(node);
    return difference(node, node0).value_or("");
  };
  EXPECT_EQ(difference_of([](Hello&) {}), "");
  EXPECT_EQ(difference_of([](Hello& h) { h.size = 8; }), "--tp-size is 8 at node 1 and 16 at node 0");
  EXPECT_EQ(difference_of([](Hello& h) { h.nodes = 3; }), "--nnodes is 3 at node 1 and 2 at node 0");
  EXPECT_EQ(difference_of([](Hello& h) { h.agreed[0].second = "0.2.0"; }),
            "version is \"0.2.0\" at node 1 and \"0.1.0\" at node 0");
  EXPECT_EQ(difference_of([](Hello& h) { h.agreed.pop_back(); }), "--dtype is not given at node 1 and \"\" at node 0");
  EXPECT_EQ(difference_of([](Hello& h) { h.node = 0; }), "--node-rank is 0 there; nodes other than 0 have [1, 2)");
  EXPECT_EQ(difference_of([](Hello& h) { h.node = 2; }), "--node-rank is 2 there; nodes other than 0 have [1, 2)");
  // Another protocol is named by its number, whatever follows it.
  Bytes bytes = write_hello(node0);
  bytes[0] = std::byte{9};
  bytes.resize(20);
  const auto newer = read_hello(bytes);
  ASSERT_TRUE(newer.has_value());
  EXPECT_EQ(difference(*newer, node0),
            "the protocol between nodes is 9 there and 1 at node 0: another version of the program");
}

TEST(MessagesTest, WhatARankIsToldComesBackWholeAndNotCut) {
  Join join;
  join.place = {.rank = 3, .size = 4, .nodes = 2};
  join.timeout_ms = 30000;
  join.key = link_key("a secret");
  join.hosts = {"10.0.0.1", "10.0.0.2"};
  join.port = 29500;
  const Bytes bytes = write_join(join);
  const auto read = read_join(bytes);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->hosts, join.hosts);
  EXPECT_EQ(read->key, join.key);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(read_join(std::span(bytes).first(length)).has_value()) << length;
  }
  join.place.rank = 4;
  EXPECT_FALSE(read_join(write_join(join)).has_value());
}

TEST(MessagesTest, FramesOfOthersAreNone) {
  std::array<std::byte, sizeof(FrameHeader)> bytes{};
  EXPECT_FALSE(read_frame_header(bytes).has_value());
  FrameHeader header;
  header.bytes = uint64_t{1} << 32;
  std::memcpy(bytes.data(), &header, sizeof header);
  EXPECT_FALSE(read_frame_header(bytes).has_value());
  header.bytes = 5;
  std::memcpy(bytes.data(), &header, sizeof header);
  EXPECT_EQ(read_frame_header(bytes).value().bytes, 5U);
}

TEST(AddressTest, HostsAndPorts) {
  EXPECT_EQ(Address::parse("10.0.0.1:29500").value().to_string(), "10.0.0.1:29500");
  EXPECT_EQ(Address::parse("[fe80::1]:1").value().host, "fe80::1");
  for (const char* wrong :
       {"", ":", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "fe80::1:1", "[fe80::1:1"}) {
    EXPECT_FALSE(Address::parse(wrong).has_value()) << wrong;
  }
}

TEST(ProcessorsTest, SharesAreDisjointAndOfOneMemoryNodeWhereTheyDivide) {
  std::vector<Processor> machine;
  for (int i = 0; i < 16; ++i) machine.push_back({i, i / 8});
  for (const int locals : {1, 2, 3, 4, 8, 16}) {
    size_t all = 0;
    for (int local = 0; local < locals; ++local) {
      const auto share = share_of_processors(machine, local, locals);
      ASSERT_FALSE(share.empty());
      EXPECT_EQ(share.front().number, static_cast<int>(all));
      all += share.size();
      if (locals > 1 && locals != 3) {
        EXPECT_EQ(share.front().memory_node, share.back().memory_node);
      }
    }
    EXPECT_EQ(all, machine.size());
  }
  EXPECT_TRUE(share_of_processors(machine, 0, 17).empty());
}

}  // namespace
}  // namespace keye::comm
