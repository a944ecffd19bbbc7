#include "media/fetch_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "base/file.h"

namespace keye::media {
namespace {

using ::testing::HasSubstr;

bool allowed(const std::vector<std::string>& domains, const std::string& url) {
  return check_url(*parse_url(url), {.domains = domains}).has_value();
}

std::string_view refused(uint32_t ipv4, const FetchPolicy& policy) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(ipv4);
  return refused_address(reinterpret_cast<const sockaddr&>(address), policy);
}

TEST(FetchPolicyTest, WithoutDomainsAnyHostMayBeAsked) {
  EXPECT_TRUE(allowed({}, "http://anything.example/"));
  const auto off = check_url(*parse_url("http://anything.example/"), {.remote = false});
  EXPECT_EQ(off.error().code, ErrorCode::unsupported);
}

TEST(FetchPolicyTest, CVE_2026_25960_domains_are_whole_hosts) {
  EXPECT_TRUE(allowed({"good.example"}, "http://GOOD.example:8080/"));
  EXPECT_TRUE(allowed({"other", "Good.Example"}, "http://good.example/"));
  for (const char* url :
       {"http://a.good.example/", "http://evilgood.example/", "http://good.example.evil/", "http://good/",
        "http://evil/good.example", "http://evil/?good.example", "http://evil#good.example"})
    EXPECT_FALSE(allowed({"good.example"}, url)) << url;
  const auto refusal = check_url(*parse_url("http://evil/secret"), {.domains = {"good.example"}});
  EXPECT_EQ(refusal.error().message, "the host evil is not among the allowed media domains");
}

TEST(FetchPolicyTest, CVE_2026_25960_wildcards_are_for_subdomains) {
  for (const char* url : {"http://a.good.example/", "http://a.b.good.example/"})
    EXPECT_TRUE(allowed({"*.Good.example"}, url)) << url;
  for (const char* url : {"http://good.example/", "http://evilgood.example/", "http://a.good.example.evil/"})
    EXPECT_FALSE(allowed({"*.good.example"}, url)) << url;
  EXPECT_FALSE(allowed({"*.0.0.1"}, "http://127.0.0.1/"));
  EXPECT_FALSE(allowed({"*"}, "http://a/"));
}

TEST(FetchPolicyTest, CVE_2026_24779_redirects_are_judged_like_references) {
  const Url plain = *parse_url("http://good.example/");
  const Url secure = *parse_url("https://good.example/");
  const FetchPolicy policy{.domains = {"good.example"}};
  EXPECT_TRUE(check_redirect(plain, plain, policy));
  EXPECT_TRUE(check_redirect(plain, secure, policy));
  EXPECT_TRUE(check_redirect(secure, secure, policy));
  EXPECT_EQ(check_redirect(secure, plain, policy).error().message, "a redirect from https to http");
  EXPECT_FALSE(check_redirect(secure, *parse_url("https://evil/"), policy));
}

TEST(FetchPolicyTest, AddressesAsDomains) {
  EXPECT_TRUE(allowed({"127.0.0.1"}, "http://[::ffff:127.0.0.1]/"));
  EXPECT_TRUE(allowed({"::1"}, "http://[0:0::1]/"));
  EXPECT_TRUE(allowed({"[::1]"}, "http://[::1]/"));
  EXPECT_FALSE(allowed({"127.0.0.1"}, "http://127.0.0.2/"));
  EXPECT_FALSE(allowed({"127.0.0.1"}, "http://localhost/"));
}

TEST(FetchPolicyTest, CVE_2025_6242_only_named_hosts_may_be_private) {
  EXPECT_EQ(refused(0x7f000001, {}), "loopback");
  EXPECT_EQ(refused(0x7f000001, {.any_path = true}), "loopback");
  EXPECT_EQ(refused(0xa9fea9fe, {}), "link-local");
  EXPECT_EQ(refused(0x08080808, {}), "");
  EXPECT_EQ(refused(0x7f000001, {.domains = {"localhost"}}), "");
  sockaddr_un other{};
  other.sun_family = AF_UNIX;
  EXPECT_EQ(refused_address(reinterpret_cast<const sockaddr&>(other), {.domains = {"a"}}), "neither IPv4 nor IPv6");
}

TEST(FetchPolicyTest, FlagsAreChecked) {
  EXPECT_TRUE(check_policy({}));
  EXPECT_TRUE(check_policy({.local_root = "/", .domains = {"a.b", "*.a.b", "10.0.0.1", "::1", "[::1]", "localhost"}}));
  for (const char* domain :
       {"", "*", "*.", "*.10.0.0.1", "http://a", "a:80", "a/b", "127.1", "a b", "*.*.a", "a*", "a."}) {
    const auto checked = check_policy({.domains = {domain}});
    ASSERT_FALSE(checked) << domain;
    EXPECT_EQ(checked.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(checked.error().message, HasSubstr("expected a host name")) << domain;
  }
  EXPECT_EQ(check_policy({.timeout = {}}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(check_policy({.timeout = std::chrono::hours(25)}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(check_policy({.redirects_max = -1}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(check_policy({.parallel_max = 0}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(check_policy({.local_root = "/no such folder"}).error().code, ErrorCode::not_found);
  EXPECT_EQ(check_policy({.local_root = "/dev/null"}).error().code, ErrorCode::io);
}

}  // namespace
}  // namespace keye::media
