#include "server/router.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/hash.h"

namespace keye::server {
namespace {

HttpRequest request(std::string method, std::string path,
                    std::map<std::string, std::string, std::less<>> headers = {}) {
  return {.method = std::move(method), .path = std::move(path), .query = {}, .headers = std::move(headers), .body = {}};
}

Router router(ApiKeys keys, std::vector<std::string> origins = {}, HostRule hosts = {}) {
  Router made(std::move(keys), std::move(origins), std::move(hosts));
  made.add({"GET", "/health", Access::everybody, {}});
  made.add({"GET", "/v1/models", Access::key, {}});
  made.add({"GET", "/v1/models/*", Access::key, {}});
  made.add({"POST", "/generate", Access::key, {}});
  made.add({"GET|POST", "/flush_cache", Access::admin, {}});
  return made;
}

int screened(const Router& router, const HttpRequest& request) {
  const auto refusal = router.screen(request);
  return refusal ? refusal->status : 200;
}

HttpRequest with_key(const std::string& key, std::string method, std::string path) {
  return request(std::move(method), std::move(path), {{"authorization", "Bearer " + key}});
}

TEST(RouterTest, EveryPathButHealthNeedsAKey) {
  const Router keyed = router({.keys = {"one", "two"}, .admin = "root"});
  EXPECT_EQ(screened(keyed, request("GET", "/health")), 200);
  for (const char* path : {"/v1/models", "/v1/models/x", "/generate", "/flush_cache", "/nothing", "/", "", "/health/",
                           "/health/x", "/Health", "//health"}) {
    for (const char* method : {"GET", "POST", "HEAD", "DELETE", "x"}) {
      EXPECT_EQ(screened(keyed, request(method, path)), 401) << method << path;
      EXPECT_EQ(screened(keyed, with_key("wrong", method, path)), 401) << method << path;
    }
  }
  EXPECT_EQ(screened(keyed, with_key("one", "GET", "/v1/models")), 200);
  EXPECT_EQ(screened(keyed, with_key("two", "HEAD", "/v1/models/x")), 200);
  EXPECT_EQ(screened(keyed, with_key("root", "POST", "/generate")), 200);
  EXPECT_EQ(screened(keyed, with_key("one", "GET", "/generate")), 405);
  EXPECT_EQ(screened(keyed, with_key("one", "GET", "/nothing")), 404);
}

TEST(RouterTest, AdminPathsNeedTheAdminKey) {
  const Router with_admin = router({.keys = {"one"}, .admin = "root"});
  EXPECT_EQ(screened(with_admin, with_key("one", "POST", "/flush_cache")), 401);
  EXPECT_EQ(screened(with_admin, with_key("root", "POST", "/flush_cache")), 200);
  const Router without_admin = router({.keys = {"one"}, .admin = {}});
  EXPECT_EQ(screened(without_admin, with_key("one", "POST", "/flush_cache")), 200);
  EXPECT_EQ(screened(without_admin, with_key("", "POST", "/flush_cache")), 401) << "no key is not an empty admin key";
  const Router only_admin = router({.keys = {}, .admin = "root"});
  EXPECT_EQ(screened(only_admin, request("POST", "/flush_cache")), 401);
  EXPECT_EQ(screened(only_admin, request("POST", "/generate")), 200);
}

TEST(RouterTest, KeysComeInTwoHeaders) {
  EXPECT_EQ(Router::key_of(request("GET", "/", {{"authorization", "bEaReR k"}})), "k");
  EXPECT_EQ(Router::key_of(request("GET", "/", {{"x-api-key", "k"}})), "k");
  for (const char* wrong : {"Basic k", "Bearer", "Bearer ", "Bearerk", "k", ""}) {
    EXPECT_EQ(Router::key_of(request("GET", "/", {{"authorization", wrong}})), "") << wrong;
  }
}

/// Comparing byte by byte would be some thousand times faster for the first of the two.
TEST(RouterTest, CVE_2025_59425_keys_are_compared_in_constant_time) {
  const std::string secret(size_t{1} << 22, 'k');
  std::string wrong_at_once = secret;
  std::string wrong_at_last = secret;
  wrong_at_once.front() = 'x';
  wrong_at_last.back() = 'x';
  const auto time = [&](const std::string& given) {
    auto best = std::chrono::nanoseconds::max();
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_FALSE(equal_secrets(given, secret));
      best = std::min<std::chrono::nanoseconds>(best, std::chrono::steady_clock::now() - start);
    }
    return best;
  };
  const auto at_once = time(wrong_at_once);
  const auto at_last = time(wrong_at_last);
  EXPECT_GT(at_once * 3, at_last);
  EXPECT_GT(at_last * 3, at_once);
  EXPECT_TRUE(equal_secrets(secret, std::string(secret)));
  EXPECT_FALSE(equal_secrets("k", secret));
  EXPECT_FALSE(equal_secrets("", secret));
}

TEST(RouterTest, CorsIsOffUnlessAskedFor) {
  const HttpRequest page = request("OPTIONS", "/generate", {{"origin", "https://page.example"}});
  EXPECT_EQ(screened(router({}), page), 405);
  EXPECT_TRUE(router({}).cors_headers(page).empty());
  const Router open = router({.keys = {"one"}, .admin = {}}, {"https://page.example"});
  EXPECT_EQ(screened(open, page), 204);
  EXPECT_EQ(screened(open, request("OPTIONS", "/generate", {{"origin", "https://other.example"}})), 405);
  EXPECT_EQ(screened(open, request("OPTIONS", "/generate", {{"origin", "https://page.example.evil"}})), 405);
  EXPECT_EQ(screened(open, request("OPTIONS", "/generate", {{"origin", "null"}})), 405);
}

TEST(RouterTest, OtherNamesOfThisMachine) {
  const Router local = router({}, {}, {.only_local = true, .others = {"proxy.example"}});
  const auto host = [&](const char* name) { return screened(local, request("GET", "/health", {{"host", name}})); };
  for (const char* name : {"localhost", "LocalHost:30000", "keye.localhost:1", "127.0.0.1:30000", "[::1]:30000",
                           "[::1]", "10.0.0.1", "proxy.example:443"}) {
    EXPECT_EQ(host(name), 200) << name;
  }
  for (const char* name : {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "xlocalhost",
                           "", "[evil]", "[", ":30000", "proxy.example.evil"}) {
    EXPECT_EQ(host(name), 403) << name;
  }
  HttpRequest old = request("GET", "/health");
  EXPECT_EQ(screened(local, old), 403);
  old.http_1_0 = true;
  EXPECT_EQ(screened(local, old), 200);
  EXPECT_EQ(screened(router({}), request("GET", "/health", {{"host", "evil.example"}})), 200)
      << "others may have names of their own";
}

}  // namespace
}  // namespace keye::server
