#include "server/http_parser.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace keye::server {
namespace {

using State = HttpParser::State;

constexpr const char* kPost =
    "POST /v1/chat%2Fcompletions?a=1&b=%20 HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    "X-Twice: a\r\nx-twice: b\r\nContent-Length: 5\r\n\r\nhello";
constexpr const char* kChunked =
    "POST /a HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: "
    "t\r\n\r\n";

struct Parsed {
  State state = State::header;
  HttpRequest request;
  HttpResponse refusal;
  std::string rest;
};

/// Gives the text in two pieces.
Parsed parse(std::string_view text, size_t cut = std::string::npos, const HttpParserLimits& limits = {}) {
  HttpParser parser(limits);
  Parsed parsed;
  parsed.rest = std::string(text.substr(0, cut));
  parsed.state = parser.push(parsed.rest);
  if (cut < text.size()) {
    parsed.rest += text.substr(cut);
    parsed.state = parser.push(parsed.rest);
  }
  if (parsed.state == State::done) parsed.request = parser.take();
  if (parsed.state == State::failed) parsed.refusal = parser.refusal();
  return parsed;
}

int status_of(std::string_view text, const HttpParserLimits& limits = {}) {
  const Parsed parsed = parse(text, std::string::npos, limits);
  return parsed.state == State::failed ? parsed.refusal.status : 0;
}

TEST(HttpParser, ReadsARequestHoweverItIsCut) {
  const std::string text = kPost;
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const Parsed parsed = parse(text, cut);
    ASSERT_EQ(parsed.state, State::done) << cut;
    EXPECT_EQ(parsed.request.method, "POST");
    EXPECT_EQ(parsed.request.path, "/v1/chat/completions");
    EXPECT_EQ(parsed.request.query, "a=1&b=%20");
    EXPECT_EQ(parsed.request.header("content-type"), "application/json");
    EXPECT_EQ(parsed.request.header("x-twice"), "a, b");
    EXPECT_EQ(parsed.request.header("missing"), "");
    EXPECT_EQ(parsed.request.body, "hello");
    EXPECT_TRUE(parsed.request.keep_alive);
    EXPECT_FALSE(parsed.request.http_1_0);
    EXPECT_EQ(parsed.rest, "");
  }
}

TEST(HttpParser, ReadsChunksHoweverTheyAreCut) {
  const std::string text = kChunked;
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const Parsed parsed = parse(text, cut);
    ASSERT_EQ(parsed.state, State::done) << cut;
    EXPECT_EQ(parsed.request.body, "hello");
  }
}

TEST(HttpParser, LeavesTheNextRequest) {
  const Parsed parsed = parse(std::string(kPost) + "GET / HTTP/1.1\r\n");
  EXPECT_EQ(parsed.state, State::done);
  EXPECT_EQ(parsed.request.body, "hello");
  EXPECT_EQ(parsed.rest, "GET / HTTP/1.1\r\n");
}

TEST(HttpParser, KnowsTheHeaderBeforeTheBody) {
  HttpParser parser({});
  EXPECT_FALSE(parser.started());
  std::string input = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nExpect: 100-Continue\r\n\r\nabc";
  EXPECT_EQ(parser.push(input), State::body);
  EXPECT_TRUE(parser.started());
  EXPECT_EQ(parser.header().path, "/a");
  EXPECT_EQ(parser.declared_length(), 10U);
  EXPECT_TRUE(parser.expects_continue());
  EXPECT_EQ(parser.body_bytes(), 3U);
}

TEST(HttpParser, KeepAliveByVersionAndHeader) {
  const auto keeps = [](const std::string& version, const std::string& header) {
    return parse("GET / HTTP/" + version + "\r\nHost: h\r\n" + header + "\r\n").request.keep_alive;
  };
  EXPECT_TRUE(keeps("1.1", ""));
  EXPECT_FALSE(keeps("1.1", "Connection: close\r\n"));
  EXPECT_FALSE(keeps("1.0", ""));
  EXPECT_TRUE(keeps("1.0", "Connection: keep-alive\r\n"));
  EXPECT_TRUE(parse("GET / HTTP/1.0\r\n\r\n").request.http_1_0);
}

TEST(HttpParser, RefusesWhatIsNotHttp) {
  for (const char* text : {
           "hello\r\n\r\n",
           "GET\r\n\r\n",
           "GET / HTTP/2.0\r\n\r\n",
           "GET / HTTP/1.1\r\nno colon\r\n\r\n",
           "GET / HTTP/1.1\r\nName : v\r\n\r\n",
           "GET / HTTP/1.1\r\nA: b\r\n folded\x01\r\n\r\n",
           "GET http://elsewhere/ HTTP/1.1\r\nHost: h\r\n\r\n",
           "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
           "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
           "GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
       }) {
    EXPECT_EQ(status_of(text), 400) << text;
  }
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\n\r\n"), 417);
}

TEST(HttpParser, HoldsItsLimits) {
  const HttpParserLimits limits{.header_bytes_max = 200, .body_bytes_max = 10};
  const auto post = [](size_t bytes) {
    return fmt::format("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{}", bytes, std::string(bytes, 'a'));
  };
  EXPECT_EQ(parse(post(10), std::string::npos, limits).state, State::done);
  EXPECT_EQ(status_of(post(11), limits), 413);
  EXPECT_EQ(status_of("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n", limits),
            413);  // before it comes
  EXPECT_EQ(status_of("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\naaaaaa\r\n6\r\naaaaaa\r\n",
                      limits),
            413);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: h\r\nLong: " + std::string(300, 'a') + "\r\n\r\n", limits), 431);
  EXPECT_EQ(status_of("GET /" + std::string(300, 'a'), limits), 431);  // before the line ends
}

TEST(DecodePath, TakesWellFormedEscapesOnly) {
  EXPECT_EQ(decode_path("/a%2Fb%c3%A4"), "/a/b\xc3\xa4");
  for (const char* wrong : {"%", "%1", "%g0", "%0g"}) EXPECT_EQ(decode_path(wrong), std::nullopt) << wrong;
}

TEST(ErrorResponse, IsAsOpenAis) {
  const HttpResponse response = error_response(404, "no \"such\" thing", {}, "model", "model_not_found");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(Json::parse(response.body),
            Json::parse(R"({"error": {"message": "no \"such\" thing", "type": "not_found_error",
                                                                   "param": "model", "code": "model_not_found"}})"));
  const auto type = [](int status) { return Json::parse(error_response(status, "m").body)["error"]["type"]; };
  EXPECT_EQ(type(400), "invalid_request_error");
  EXPECT_EQ(type(401), "authentication_error");
  EXPECT_EQ(type(429), "rate_limit_error");
  EXPECT_EQ(type(503), "server_error");
  EXPECT_EQ(Json::parse(error_response(400, "m").body)["error"]["param"], nullptr);
  EXPECT_TRUE(Json::accept(error_response(400, "not UTF-8: \xff").body));
}

TEST(ResponseHead, SaysHowTheBodyEnds) {
  HttpRequest request;
  const std::string whole = response_head(request, 200, {{"X-A", "b"}}, 3, true);
  EXPECT_TRUE(whole.starts_with("HTTP/1.1 200 OK\r\nDate: ")) << whole;
  EXPECT_NE(whole.find("\r\nX-A: b\r\n"), std::string::npos);
  EXPECT_TRUE(whole.ends_with("\r\nContent-Length: 3\r\n\r\n")) << whole;
  const std::string stream = response_head(request, 200, {}, std::nullopt, false);
  EXPECT_TRUE(stream.ends_with("\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")) << stream;
  request.http_1_0 = true;
  EXPECT_EQ(response_head(request, 200, {}, std::nullopt, false).find("chunked"), std::string::npos);
  EXPECT_NE(response_head(request, 200, {}, 3, true).find("\r\nConnection: keep-alive\r\n"), std::string::npos);
}

TEST(StatusText, KnowsWhatTheServerAnswers) {
  for (const int status : {200, 204, 400, 401, 403, 404, 405, 408, 413, 417, 429, 431, 499, 500, 503, 504}) {
    EXPECT_NE(status_text(status), "Unknown") << status;
  }
  EXPECT_EQ(status_text(299), "Unknown");
}

}  // namespace
}  // namespace keye::server
