#include "media/fetch.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <condition_variable>
#include <map>

#include "media/http_testing.h"
#include "media/load.h"

namespace keye::media {
namespace {

using std::chrono::milliseconds;
using testing::Exchange;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Server;
using Clock = std::chrono::steady_clock;

/// What names resolve to, instead of DNS. "slow.test" takes as long as it is held.
struct Names {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::vector<std::string>> addresses;
  bool held = false;
  int looking = 0;
};
Names& names() {
  static Names made;
  return made;
}

}  // namespace
}  // namespace keye::media

/// In the place of libc's, for libcurl too: no test asks a name server.
extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** out) {
  auto& names = keye::media::names();
  static const auto real = reinterpret_cast<decltype(&getaddrinfo)>(::dlsym(RTLD_NEXT, "getaddrinfo"));
  std::unique_lock lock(names.mutex);
  const std::string host = name == nullptr ? "" : name;
  if (host == "slow.test") {
    ++names.looking;
    names.changed.wait(lock, [&] { return !names.held; });
    --names.looking;
    names.changed.notify_all();
  }
  addrinfo** last = out;
  *out = nullptr;
  for (const std::string& address : names.addresses[host]) {
    if (const int failure = real(address.c_str(), service, hints, last); failure != 0) return failure;
    while (*last != nullptr) last = &(*last)->ai_next;
  }
  return *out == nullptr ? EAI_NONAME : 0;
}

namespace keye::media {
namespace {

class FetchTest : public ::testing::Test {
 protected:
  ~FetchTest() override {
    std::unique_lock lock(names().mutex);
    names().held = false;
    names().changed.notify_all();
    names().changed.wait(lock, [] { return names().looking == 0; });
    names().addresses.clear();
  }

  Result<std::string> fetch(const std::string& reference) const { return fetch_media(reference, policy_, limits_); }
  Error refused(const std::string& reference) const {
    const auto bytes = fetch(reference);
    EXPECT_FALSE(bytes) << reference;
    if (bytes) return {ErrorCode::internal, "fetched " + *bytes, reference};
    EXPECT_EQ(bytes.error().where, shown_reference(reference));
    return bytes.error();
  }

  FetchPolicy policy_{.domains = {"127.0.0.1"}, .timeout = std::chrono::seconds(20)};
  MediaLimits limits_;
};

void say_picture(const Exchange& exchange) { exchange.reply("200 OK", "", "picture"); }

TEST_F(FetchTest, FetchesFromANamedHost) {
  const Server server(say_picture);
  EXPECT_EQ(fetch(server.url("/a.png?x=%20#part")).value(), "picture");
  EXPECT_EQ(fetch(fmt::format("HTTP://127.0.0.1:{}", server.port())).value(), "picture");
}

TEST_F(FetchTest, CVE_2025_6242_private_addresses_are_denied) {
  const Server server(say_picture);
  policy_.domains.clear();
  names().addresses["inside.test"] = {"127.0.0.1"};
  names().addresses["many.test"] = {"10.0.0.1", "127.0.0.1", "::1", "169.254.169.254"};
  for (const bool any_path : {false, true}) {
    policy_.any_path = any_path;
    for (const char* host : {"127.0.0.1",       "localhost",         "a.localhost",     "inside.test",
                             "many.test",       "0.0.0.0",           "[::1]",           "[::]",
                             "10.0.0.1",        "172.16.0.1",        "192.168.0.1",     "100.64.0.1",
                             "169.254.169.254", "[fd00:ec2::254]",   "[fe80::1]",       "[::ffff:127.0.0.1]",
                             "[::7f00:1]",      "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1",
                             "255.255.255.255"}) {
      const Error error = refused(server.url("/", host));
      EXPECT_EQ(error.code, ErrorCode::invalid_argument) << host;
      EXPECT_THAT(error.message, HasSubstr("has no public address")) << host;
    }
    for (const char* host : {"2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1", "%31%32%37.0.0.1", "127.0.0.1."})
      EXPECT_EQ(refused(server.url("/", host)).code, ErrorCode::invalid_argument) << host;
  }
  EXPECT_THAT(refused(server.url("/", "inside.test")).to_string(), Not(HasSubstr("127.0.0.1")));
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(FetchTest, CVE_2026_25960_only_named_hosts) {
  const Server server(say_picture);
  names().addresses["a.good.test"] = names().addresses["good.test"] = {"127.0.0.1"};
  names().addresses["evilgood.test"] = {"127.0.0.1"};
  policy_.domains = {"*.good.test"};
  EXPECT_EQ(fetch(server.url("/", "a.good.test")).value(), "picture");
  for (const char* host : {"good.test", "evilgood.test", "127.0.0.1", "localhost"})
    EXPECT_THAT(refused(server.url("/", host)).message, HasSubstr("not among the allowed")) << host;
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(FetchTest, CVE_2026_24779_backslash_and_user_names) {
  const Server server(say_picture);
  for (const char* form : {"http://{}@169.254.169.254/", "http://169.254.169.254\\@{}/", "http://{}\\@169.254.169.254/",
                           "http:\\\\{}/", "http://user:password@{}/", "http://{}/\r\nHost: evil", "http:/{}/"}) {
    const std::string reference = fmt::format(fmt::runtime(form), fmt::format("127.0.0.1:{}", server.port()));
    EXPECT_EQ(refused(reference).code, ErrorCode::invalid_argument) << reference;
  }
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(FetchTest, CVE_2026_24779_redirects_are_judged) {
  std::string location;
  const Server server([&](const Exchange& exchange) { exchange.redirect(location); });
  for (const std::string& to :
       {std::string("http://169.254.169.254/latest/"), std::string("//169.254.169.254/"), server.url("/", "localhost"),
        std::string("\\\\169.254.169.254/"), std::string("/\\169.254.169.254/"), server.url("\\@169.254.169.254/"),
        std::string("http://127.0.0.1@169.254.169.254/"), std::string("http://2130706433/"), std::string("http:evil"),
        std::string("http://\xc3\xbc/"), std::string("/a b")}) {
    location = to;
    const Error error = refused(server.url("/"));
    EXPECT_EQ(error.code, ErrorCode::invalid_argument) << to;
  }
  for (const char* to : {"file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/"}) {
    location = to;
    EXPECT_EQ(refused(server.url("/")).code, ErrorCode::unsupported) << to;
  }
  EXPECT_EQ(server.connections(), 14);
}

TEST_F(FetchTest, CVE_2026_24779_names_that_change_their_address) {
  const Server server(say_picture);
  policy_.domains.clear();
  EXPECT_EQ(refused(server.url("/", "rebind.test")).code, ErrorCode::unavailable);
  names().addresses["rebind.test"] = {"127.0.0.1"};
  EXPECT_EQ(refused(server.url("/", "rebind.test")).code, ErrorCode::invalid_argument);
  policy_.domains = {"rebind.test"};
  EXPECT_EQ(fetch(server.url("/", "rebind.test")).value(), "picture");
  policy_.domains.clear();  // neither a connection nor an address is remembered from one call to the next
  EXPECT_EQ(refused(server.url("/", "rebind.test")).code, ErrorCode::invalid_argument);
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(FetchTest, FollowsRedirects) {
  const Server server([](const Exchange& exchange) {
    const std::string target = exchange.target();
    if (target == "/a/1") return exchange.redirect("2?x#y");
    if (target == "/a/2?x") return exchange.redirect("../b/./3");
    if (target == "/b/3") return exchange.redirect("/4");
    if (target == "/4") return say_picture(exchange);
    if (target == "/none") return exchange.reply("302 Found", "", "");
    if (target == "/two") return exchange.reply("302 Found", "Location: /4\r\nLocation: /b/3\r\n", "");
    if (target == "/to-none") return exchange.redirect("/none");
    if (target == "/choices") return exchange.reply("300 Multiple Choices", "Location: /4\r\n", "");
    exchange.redirect(target == "/loop" ? "/loop2" : "/loop");
  });
  EXPECT_EQ(fetch(server.url("/a/1")).value(), "picture");
  EXPECT_EQ(refused(server.url("/loop")).message, "after 3 redirects: more than 3 redirects");
  for (const char* target : {"/none", "/two", "/to-none"})
    EXPECT_THAT(refused(server.url(target)).message, HasSubstr("without one Location")) << target;
  EXPECT_THAT(refused(server.url("/choices")).message, HasSubstr("status 300"));
  policy_.redirects_max = 0;
  EXPECT_EQ(refused(server.url("/b/3")).message, "more than 0 redirects");
}

TEST_F(FetchTest, NoHopIsReportedWithAnEarlierOnesStatus) {
  const Server server([](const Exchange& exchange) {
    if (exchange.target() == "/closed") return exchange.redirect("/nothing");
    if (exchange.target() != "/nothing") exchange.redirect("http://127.0.0.1:1/");
  });
  EXPECT_EQ(refused(server.url("/")).code, ErrorCode::unavailable);
  EXPECT_EQ(refused(server.url("/")).message, "after 1 redirect: no connection to the host");
  EXPECT_EQ(refused(server.url("/closed")).code, ErrorCode::unavailable);
}

TEST_F(FetchTest, StatusesAreErrors) {
  const Server server(
      [](const Exchange& exchange) { exchange.reply(exchange.target().substr(1), "", "<html>page</html>"); });
  const std::pair<const char*, ErrorCode> cases[] = {
      {"404", ErrorCode::not_found},        {"410", ErrorCode::not_found},        {"500", ErrorCode::unavailable},
      {"503", ErrorCode::unavailable},      {"429", ErrorCode::unavailable},      {"408", ErrorCode::unavailable},
      {"403", ErrorCode::invalid_argument}, {"401", ErrorCode::invalid_argument}, {"204", ErrorCode::invalid_argument},
      {"206", ErrorCode::invalid_argument}, {"304", ErrorCode::invalid_argument}, {"201", ErrorCode::invalid_argument},
  };
  for (const auto& [status, code] : cases) {
    const Error error = refused(server.url(fmt::format("/{}", status)));
    EXPECT_EQ(error.code, code) << status;
    EXPECT_EQ(error.message, fmt::format("the server answered with status {}, expected 200", status));
  }
}

TEST_F(FetchTest, BodiesOverTheLimitAreNotTaken) {
  std::atomic<bool> refused_early = false;
  const Server server([&](const Exchange& exchange) {
    const std::string target = exchange.target();
    if (target == "/fits") return exchange.reply("200 OK", "", std::string(1000, 'a'));
    if (target == "/declared") {
      exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
      refused_early = !exchange.wait_ms(5000);
    } else if (target == "/open") {
      exchange.send("HTTP/1.1 200 OK\r\n\r\n");
      while (exchange.send(std::string(100, 'a'))) continue;
    } else if (target == "/chunked") {
      exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
      while (exchange.send("64\r\n" + std::string(100, 'a') + "\r\n")) continue;
    } else {
      exchange.send("HTTP/1.1 200 OK\r\n");
      while (exchange.send("X-Header: " + std::string(1000, 'a') + "\r\n")) continue;
    }
  });
  limits_.bytes_max = 1000;
  EXPECT_EQ(fetch(server.url("/fits"))->size(), 1000U);
  for (const char* target : {"/declared", "/open", "/chunked"}) {
    const Error error = refused(server.url(target));
    EXPECT_EQ(error.code, ErrorCode::too_large) << target;
    EXPECT_EQ(error.message, "more than 1000 bytes, which is the limit");
  }
  EXPECT_TRUE(refused_early);
  EXPECT_EQ(refused(server.url("/headers")).code, ErrorCode::unavailable);
}

TEST_F(FetchTest, PagesOfErrorsAreNotTaken) {
  std::atomic<int> left_early = 0;
  const Server server([&](const Exchange& exchange) {
    if (exchange.target() == "/picture") return say_picture(exchange);
    exchange.send(fmt::format("HTTP/1.1 {}\r\nLocation: /picture\r\n\r\n<html>", exchange.target().substr(1)));
    left_early += exchange.wait_ms(5000) ? 0 : 1;
  });
  EXPECT_EQ(refused(server.url("/404")).code, ErrorCode::not_found);
  EXPECT_EQ(fetch(server.url("/302")).value(), "picture");
  const auto patience = Clock::now() + std::chrono::seconds(4);
  while (left_early < 2 && Clock::now() < patience) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(left_early, 2);
}

TEST_F(FetchTest, BrokenAnswers) {
  const Server server([](const Exchange& exchange) {
    if (exchange.target() == "/short") exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npicture");
    if (exchange.target() == "/old") exchange.send("picture");
    if (exchange.target() == "/garbage") exchange.send("HTTP/9.9 abc\r\n\r\n");
    if (exchange.target() == "/gzip") exchange.reply("200 OK", "Content-Encoding: gzip\r\n", "as it is");
  });
  for (const char* target : {"/short", "/old", "/garbage", "/nothing"})
    EXPECT_EQ(refused(server.url(target)).code, ErrorCode::unavailable) << target;
  EXPECT_EQ(fetch(server.url("/gzip")).value(), "as it is");
}

TEST_F(FetchTest, HostsThatAreNotThere) {
  policy_.domains = {"127.0.0.1", "nowhere.test", "closed.test"};
  names().addresses["closed.test"] = {"127.0.0.1"};
  EXPECT_EQ(refused("http://nowhere.test/").code, ErrorCode::unavailable);
  EXPECT_EQ(refused("http://nowhere.test/").message, "the host name does not resolve");
  EXPECT_EQ(refused("http://closed.test:1/").code, ErrorCode::unavailable);
  EXPECT_EQ(refused("http://closed.test:1/").message, "no connection to the host");
  const Server server(say_picture);
  EXPECT_EQ(refused(fmt::format("https://127.0.0.1:{}", server.port())).code, ErrorCode::unavailable);
}

TEST_F(FetchTest, NothingOfOursGoesOut) {
  std::vector<std::string> heads;
  const Server server([&](const Exchange& exchange) {
    heads.push_back(exchange.head());
    if (heads.size() == 2) return say_picture(exchange);
    exchange.reply("302 Found", "Location: /next\r\nSet-Cookie: a=b\r\n", "");
  });
  for (const char* variable : {"http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"})
    ::setenv(variable, "http://127.0.0.1:1", 1);
  EXPECT_EQ(fetch(server.url("/first")).value(), "picture");
  for (const char* variable : {"http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"}) ::unsetenv(variable);
  ASSERT_EQ(heads.size(), 2U);
  EXPECT_THAT(heads[0], HasSubstr("GET /first HTTP/1.1\r\n"));
  EXPECT_THAT(heads[0], HasSubstr("User-Agent: keye/"));
  for (const std::string& head : heads) {
    for (const char* field : {"Cookie", "Authorization", "Accept-Encoding", "Referer", "Upgrade"})
      EXPECT_THAT(head, Not(HasSubstr(field)));
  }
}

TEST_F(FetchTest, TimeIsForAllHopsTogether) {
  const Server server([](const Exchange& exchange) {
    if (exchange.target() == "/stalls") exchange.wait_ms(20'000);
    if (exchange.target() == "/drips") {
      exchange.send("HTTP/1.1 200 OK\r\n\r\n");
      while (exchange.wait_ms(20)) exchange.send("a");
    }
    if (exchange.wait_ms(120)) exchange.redirect("/again");
  });
  policy_.timeout = milliseconds(300);
  policy_.redirects_max = 100;
  policy_.domains.emplace_back("slow.test");
  names().held = true;
  for (const std::string& reference :
       {server.url("/stalls"), server.url("/drips"), server.url("/hops"), std::string("http://slow.test/")}) {
    const auto start = Clock::now();
    const Error error = refused(reference);
    EXPECT_EQ(error.code, ErrorCode::deadline) << reference;
    EXPECT_THAT(error.message, HasSubstr("not done after 300 ms"));
    EXPECT_GE(Clock::now() - start, milliseconds(290));
    EXPECT_LT(Clock::now() - start, milliseconds(2000)) << reference;
  }
}

TEST_F(FetchTest, CVE_2026_34755_all_references_together_have_a_time) {
  const Server server([](const Exchange& exchange) { exchange.wait_ms(20'000); });
  policy_.timeout = milliseconds(200);
  policy_.all_timeout = milliseconds(300);
  policy_.parallel_max = 2;
  const std::vector<std::string> references(20, server.url("/stalls"));
  const auto start = Clock::now();
  const auto results = fetch_media(references, policy_, limits_);
  EXPECT_LT(Clock::now() - start, milliseconds(1500));
  EXPECT_EQ(results.front().error().message, "not done after 200 ms");
  EXPECT_EQ(results.back().error().message, "not done after 300 ms");
}

TEST_F(FetchTest, CVE_2026_34755_all_references_together_have_a_size) {
  const Server server([](const Exchange& exchange) { exchange.reply("200 OK", "", std::string(400, 'a')); });
  policy_.all_bytes_max = 1000;
  policy_.parallel_max = 1;
  const std::string data = "data:," + std::string(400, 'b');
  const std::string small = "data:,b";
  const auto good = [&](const std::vector<std::string>& references) {
    std::string out;
    for (const auto& result : fetch_media(references, policy_, limits_)) {
      out += result ? '1' : '0';
      if (!result) {
        EXPECT_EQ(result.error().code, ErrorCode::too_large);
      }
    }
    return out;
  };
  EXPECT_EQ(good({server.url("/"), server.url("/"), server.url("/")}), "110");
  EXPECT_EQ(good({data, data, data}), "110");
  EXPECT_EQ(good({server.url("/"), data, server.url("/"), small}), "1101") << "what needs no network comes first";
}

TEST_F(FetchTest, StopsWhenAsked) {
  const Server server([](const Exchange& exchange) {
    if (exchange.target() == "/quick") return say_picture(exchange);
    exchange.wait_ms(20'000);
  });
  policy_.domains.emplace_back("slow.test");
  policy_.parallel_max = 2;
  names().held = true;
  for (const std::string& slow : {server.url("/stalls"), std::string("http://slow.test/")}) {
    const std::vector<std::string> references{server.url("/quick"), slow, slow, server.url("/waits"), "http://evil/"};
    std::stop_source source;
    Clock::time_point stopped;
    std::jthread stopping([&] {
      std::this_thread::sleep_for(milliseconds(200));
      stopped = Clock::now();
      source.request_stop();
    });
    const auto results = fetch_media(references, policy_, limits_, source.get_token());
    const auto late = Clock::now();
    stopping.join();
    EXPECT_LT(late - stopped, milliseconds(500)) << slow;  // on a loaded machine; alone it is well under 50
    ASSERT_EQ(results.size(), references.size());
    EXPECT_EQ(results[0].value(), "picture");
    for (size_t i = 1; i < 4; ++i) EXPECT_EQ(results[i].error().code, ErrorCode::cancelled) << i;
    EXPECT_EQ(results[4].error().code, ErrorCode::invalid_argument);

    const int before = server.connections();
    for (const auto& result : fetch_media(references, policy_, limits_, source.get_token()))
      EXPECT_EQ(result.error().code, ErrorCode::cancelled);
    EXPECT_EQ(server.connections(), before);
  }
}

TEST_F(FetchTest, ManyAtATimeInTheirOrder) {
  std::atomic<int> now = 0;
  std::atomic<int> most = 0;
  const Server server([&](const Exchange& exchange) {
    most = std::max(most.load(), ++now);
    const std::string target = exchange.target();
    exchange.wait_ms(200 - 10 * std::stoi(target.substr(1)));
    --now;
    exchange.reply("200 OK", "", target);
  });
  std::vector<std::string> references;
  references.reserve(14);
  for (int i = 0; i < 12; ++i) references.push_back(server.url(fmt::format("/{}", i)));
  references.insert(references.begin() + 5, "data:,here");
  references.insert(references.begin() + 7, "http://elsewhere/");
  policy_.parallel_max = 4;
  const auto results = fetch_media(references, policy_, limits_);
  ASSERT_EQ(results.size(), references.size());
  EXPECT_EQ(results[5].value(), "here");
  EXPECT_THAT(results[7].error().message, HasSubstr("not among the allowed"));
  for (size_t i = 0; i < results.size(); ++i) {
    if (i == 5 || i == 7) continue;
    EXPECT_EQ(results[i].value(), references[i].substr(references[i].rfind('/')));
  }
  EXPECT_EQ(most, 4);
  EXPECT_TRUE(fetch_media(std::span<const std::string>(), policy_, limits_).empty());
}

TEST_F(FetchTest, WithoutTheNetwork) {
  policy_.remote = false;
  EXPECT_EQ(refused("http://127.0.0.1:1/").code, ErrorCode::unsupported);
  EXPECT_EQ(fetch("data:;base64,cGljdHVyZQ==").value(), "picture");
  EXPECT_THAT(refused("data:;base64,*").message, HasSubstr("base64"));
}

}  // namespace
}  // namespace keye::media
