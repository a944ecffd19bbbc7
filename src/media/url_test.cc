#include "media/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace keye::media {
namespace {

using ::testing::HasSubstr;

std::string canonical(std::string_view text) {
  const auto url = parse_url(text);
  if (!url) return "refused: " + url.error().message;
  const auto again = parse_url(url->to_string());
  EXPECT_TRUE(again && *again == *url) << text;
  return url->to_string();
}

std::string refused(std::string_view text, ErrorCode code = ErrorCode::invalid_argument) {
  const auto url = parse_url(text);
  EXPECT_FALSE(url) << text;
  if (url) return "read as " + url->to_string();
  EXPECT_EQ(url.error().code, code) << text;
  return url.error().message;
}

TEST(UrlTest, Parts) {
  const auto url = parse_url("HTTPS://CDN.Example.com:8443/a/B.png?x=1&y=%2F#part");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->scheme, "https");
  EXPECT_EQ(url->host, (Host{"cdn.example.com", false}));
  EXPECT_EQ(url->port, 8443);
  EXPECT_EQ(url->path_and_query, "/a/B.png?x=1&y=%2F");
  EXPECT_EQ(url->to_string(), "https://cdn.example.com:8443/a/B.png?x=1&y=%2F");
}

TEST(UrlTest, Canonical) {
  const std::pair<const char*, const char*> cases[] = {
      {"http://host", "http://host/"},
      {"http://host?q", "http://host/?q"},
      {"http://host#f", "http://host/"},
      {"http://host:80/", "http://host/"},
      {"http://host:0080/", "http://host/"},
      {"https://host:443/", "https://host/"},
      {"https://host:80/", "https://host:80/"},
      {"http://a_b.x-y.Z9/", "http://a_b.x-y.z9/"},
      {"http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"},
      {"http://192.0.2.1/", "http://192.0.2.1/"},
      {"http://[2001:DB8:0::1]:81/", "http://[2001:db8::1]:81/"},
      {"http://[::ffff:10.0.0.1]/", "http://10.0.0.1/"},
      {"http://host/a/./b/../c", "http://host/a/c"},
      {"http://host/../../a", "http://host/a"},
      {"http://host/a/..", "http://host/"},
      {"http://host/a/b/.", "http://host/a/b/"},
      {"http://host//a//b", "http://host//a//b"},
      {"http://host/.//a", "http://host//a"},
      {"http://host/%2e%2E/a", "http://host/%2e%2E/a"},
      {"http://host/?a/../b?c", "http://host/?a/../b?c"},
      {"http://host/a;b=c,d@e:f!$&'()*+~", "http://host/a;b=c,d@e:f!$&'()*+~"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(canonical(text), expected) << text;
}

TEST(UrlTest, SchemesAreHttpAndHttps) {
  for (const char* text : {"ftp://host/", "file:///etc/passwd", "gopher://host/", "s3://bucket/a", "httpx://host/"})
    EXPECT_THAT(refused(text, ErrorCode::unsupported), HasSubstr("http://"));
  for (const char* text : {"", "http", "//host/", "host/a", ":", "data:,a", "javascript:1", "view-source:http://host/"})
    EXPECT_THAT(refused(text), HasSubstr("http://"));
  for (const char* text : {"http:host", "http:/host", "https:", "http:"}) EXPECT_THAT(refused(text), HasSubstr("//"));
}

TEST(UrlTest, CVE_2026_24779_backslashes) {
  for (const char* text : {"http://169.254.169.254\\@allowed/", "http://allowed\\@169.254.169.254/",
                           "http:\\\\allowed/", "http:/\\allowed/", "http://allowed/\\..\\a", "http://allowed\\.evil/",
                           "http://allowed/?\\", "http://allowed/#\\"})
    EXPECT_THAT(refused(text), HasSubstr("backslash")) << text;
}

TEST(UrlTest, CVE_2026_24779_user_names) {
  for (const char* text : {"http://allowed@169.254.169.254/", "http://allowed:80@169.254.169.254/", "http://@host/",
                           "http://a:b@host/", "http://host@:80/", "http://allowed@[::1]/"})
    EXPECT_THAT(refused(text), HasSubstr("user names")) << text;
  EXPECT_THAT(refused("http://allowed#@169.254.169.254 /"), HasSubstr("space"));
  EXPECT_EQ(canonical("http://allowed#@169.254.169.254/"), "http://allowed/");
  EXPECT_EQ(canonical("http://allowed?@169.254.169.254/"), "http://allowed/?@169.254.169.254/");
  EXPECT_EQ(canonical("http://allowed/@169.254.169.254/"), "http://allowed/@169.254.169.254/");
}

TEST(UrlTest, CVE_2025_6242_numbers_that_resolvers_read_as_ipv4) {
  for (const char* host : {"2130706433", "0177.0.0.1", "017700000001", "0x7f000001", "0x7f.0.0.1", "0X7F.1", "127.1",
                           "127.0.1", "127.0.0.01", "127.0.0.256", "127.0.0.0x1", "0x", "1.2.3.4.5", "a.127", "0"})
    EXPECT_THAT(refused(std::string("http://") + host + "/"), HasSubstr("four decimal numbers")) << host;
  EXPECT_EQ(canonical("http://0x7g/"), "http://0x7g/");
  EXPECT_EQ(canonical("http://1.2.3.a4/"), "http://1.2.3.a4/");
}

TEST(UrlTest, ControlsSpacesAndNonAsciiAreRefused) {
  for (const char* text : {"http://host/\r\nX-Injected: 1", "http://ho\tst/", "\x01http://host/", "http://host/\x7f"})
    EXPECT_THAT(refused(text), HasSubstr("control character")) << text;
  EXPECT_THAT(refused(std::string_view("http://host/\0", 13)), HasSubstr("0x00"));
  for (const char* text : {" http://host/", "http://host/ ", "http://ho st/", "http:// host/"})
    EXPECT_THAT(refused(text), HasSubstr("space")) << text;
  for (const char* text : {"http://b\u00fccher.example/", "http://\u2460\u2461.example/", "http://127\u30020.0.1/",
                           "http://host/\u00fc", "http://host\uff0f/", "http://host/\xff"})
    EXPECT_THAT(refused(text), HasSubstr("punycode")) << text;
}

TEST(UrlTest, HostsAreNamesOrAddresses) {
  EXPECT_THAT(refused("http:///a"), HasSubstr("empty"));
  EXPECT_THAT(refused("http://:80/"), HasSubstr("empty"));
  EXPECT_THAT(refused("http://?"), HasSubstr("empty"));
  EXPECT_THAT(refused("http://%31%32%37.0.0.1/"), HasSubstr("percent"));
  EXPECT_THAT(refused("http://host%00.example/"), HasSubstr("percent"));
  EXPECT_THAT(refused("http://host./"), HasSubstr("ends with a dot"));
  EXPECT_THAT(refused("http://127.0.0.1./"), HasSubstr("ends with a dot"));
  EXPECT_THAT(refused("http://a..b/"), HasSubstr("empty label"));
  EXPECT_THAT(refused("http://.a/"), HasSubstr("empty label"));
  for (const char* host : {"a,b", "a!b", "*", "*.a", "a'b", "a;b", "a]b", "a|b", "a^b", "a<b"})
    EXPECT_THAT(refused(std::string("http://") + host + "/"), HasSubstr("contains")) << host;
  EXPECT_THAT(refused("http://" + std::string(64, 'a') + "/"), HasSubstr("63"));
  EXPECT_EQ(canonical("http://" + std::string(63, 'a') + "/"), "http://" + std::string(63, 'a') + "/");
  std::string longest;
  for (int i = 0; i < 126; ++i) longest += "a.";
  EXPECT_TRUE(parse_url("http://" + longest + "b/"));
  EXPECT_THAT(refused("http://" + longest + "bb/"), HasSubstr("253"));
}

TEST(UrlTest, Ipv6) {
  for (const char* host : {"[fe80::1%eth0]", "[fe80::1%25eth0]"})
    EXPECT_THAT(refused(std::string("http://") + host + "/"), HasSubstr("zone")) << host;
  for (const char* host : {"[]", "[1]", "[127.0.0.1]", "[v1.a]", "[::g]", "[[::1]", "[::1"})
    EXPECT_THAT(refused(std::string("http://") + host + "/"), HasSubstr("bracket")) << host;
  EXPECT_THAT(refused("http://[::1]a/"), HasSubstr("port"));
  EXPECT_THAT(refused("http://[::1].evil/"), HasSubstr("port"));
  EXPECT_THAT(refused("http://::1/"), HasSubstr("brackets"));
}

TEST(UrlTest, Ports) {
  for (const char* port : {":", ":0", ":65536", ":-1", ":+80", ":8o", ":0x50", ":000080", ":80a", ":99999999999"})
    EXPECT_THAT(refused(std::string("http://host") + port + "/"), HasSubstr("1 to 65535")) << port;
  EXPECT_THAT(refused("http://host:80:81/"), HasSubstr("two ports"));
  EXPECT_EQ(parse_url("http://host:65535")->port, 65535);
}

TEST(UrlTest, PathsAreWrittenByTheGrammar) {
  EXPECT_EQ(refused("http://host/a|b"), "the path contains \"|\", which is written %7C");
  EXPECT_EQ(refused("http://host/?{"), "the query contains \"{\", which is written %7B");
  EXPECT_EQ(refused("http://host/#a#b"), "the fragment contains \"#\", which is written %23");
  for (const char* text : {"http://host/%", "http://host/%4", "http://host/%zz", "http://host/?%4", "http://host/#%g0"})
    EXPECT_THAT(refused(text), HasSubstr("hexadecimal")) << text;
  EXPECT_THAT(refused("http://host/" + std::string(kUrlBytesMax, 'a'), ErrorCode::too_large), HasSubstr("8192"));
}

TEST(UrlTest, ResolvesReferences) {
  const Url base = *parse_url("http://a:81/b/c/d;p?q");
  // RFC 3986, 5.4, with a port.
  const std::pair<const char*, const char*> cases[] = {
      {"http://h/x", "http://h/x"},
      {"g", "/b/c/g"},
      {"./g", "/b/c/g"},
      {"g/", "/b/c/g/"},
      {"/g", "/g"},
      {"//g", "http://g/"},
      {"?y", "/b/c/d;p?y"},
      {"g?y", "/b/c/g?y"},
      {"#s", "/b/c/d;p?q"},
      {"g#s", "/b/c/g"},
      {"g?y#s", "/b/c/g?y"},
      {";x", "/b/c/;x"},
      {"g;x", "/b/c/g;x"},
      {"", "/b/c/d;p?q"},
      {".", "/b/c/"},
      {"./", "/b/c/"},
      {"..", "/b/"},
      {"../", "/b/"},
      {"../g", "/b/g"},
      {"../..", "/"},
      {"../../g", "/g"},
      {"../../../g", "/g"},
      {"/./g", "/g"},
      {"/../g", "/g"},
      {"g.", "/b/c/g."},
      {"..g", "/b/c/..g"},
      {"./../g", "/b/g"},
      {"g/./h", "/b/c/g/h"},
      {"g/../h", "/b/c/h"},
      {"g;x=1/../y", "/b/c/y"},
      {"g?y/../x", "/b/c/g?y/../x"},
      {"HTTPS://H:444", "https://h:444/"},
  };
  for (const auto& [reference, expected] : cases) {
    const auto url = resolve_url(base, reference);
    ASSERT_TRUE(url) << reference << ": " << url.error().message;
    const std::string whole = expected[0] == '/' ? std::string("http://a:81") + expected : expected;
    EXPECT_EQ(url->to_string(), whole) << reference;
  }
  EXPECT_EQ(resolve_url(*parse_url("https://[::1]:1/"), "a")->to_string(), "https://[::1]:1/a");
}

TEST(UrlTest, CVE_2026_24779_references_are_read_as_strictly) {
  const Url base = *parse_url("http://allowed/a");
  for (const char* reference :
       {"\\\\evil/", "/\\evil/", "http:\\\\evil/", "//user@evil/", "//evil\\@allowed/", "http:evil", "//2130706433/",
        "///evil/", "/a b", "/\xc3\xbc", "/\t/evil", "mailto:a", "1:2"})
    EXPECT_FALSE(resolve_url(base, reference)) << reference;
  EXPECT_EQ(resolve_url(base, "ftp://evil/").error().code, ErrorCode::unsupported);
}

TEST(UrlTest, HostsAlone) {
  EXPECT_EQ(*parse_host("Example.COM"), (Host{"example.com", false}));
  EXPECT_EQ(*parse_host("10.0.0.1"), (Host{"10.0.0.1", true}));
  EXPECT_EQ(*parse_host("[::1]"), (Host{"::1", true}));
  EXPECT_EQ(*parse_host("0:0::1"), (Host{"::1", true}));
  for (const char* text : {"", "a:80", "http://a", "a/b", "[10.0.0.1]", "a@b", "127.1", "[]"})
    EXPECT_FALSE(parse_host(text)) << text;
}

}  // namespace
}  // namespace keye::media
