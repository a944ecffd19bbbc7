#include "server/http_parser.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace keye::server {
namespace {

using State = HttpParser::State;
using ::testing::HasSubstr;

struct Outcome {
  State state = State::header;
  HttpRequest request;  // in `done`
  int status = 0;       // in `failed`
  std::string message;
  std::string rest;  // what is not of this request
};

/// `step` bytes at a time, as a connection feeds them.
Outcome parse(std::string_view bytes, size_t step = std::string_view::npos, const HttpParserLimits& limits = {}) {
  Outcome outcome;
  HttpParser parser(limits);
  while (!bytes.empty() && (parser.state() == State::header || parser.state() == State::body)) {
    const std::string_view next = bytes.substr(0, step);
    bytes.remove_prefix(next.size());
    outcome.rest += next;
    parser.push(outcome.rest);
  }
  outcome.rest += bytes;
  outcome.state = parser.state();
  if (outcome.state == State::done) outcome.request = parser.take();
  if (outcome.state == State::failed) {
    outcome.status = parser.refusal().status;
    outcome.message = parser.refusal().body;
  }
  return outcome;
}

std::string get(std::string_view headers) { return fmt::format("GET /health HTTP/1.1\r\nHost: a\r\n{}\r\n", headers); }
std::string post(std::string_view headers, std::string_view body) {
  return fmt::format("POST /generate HTTP/1.1\r\nHost: a\r\n{}\r\n{}", headers, body);
}

/// The same, whole and in pieces of every size that matters.
void expect_refused(const std::string& bytes, int status = 400) {
  for (const size_t step : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, bytes.size()}) {
    const Outcome outcome = parse(bytes, step);
    EXPECT_EQ(outcome.state, State::failed) << step << ": " << bytes.substr(0, 300);
    EXPECT_EQ(outcome.status, status) << step << ": " << bytes.substr(0, 300) << outcome.message;
  }
}

TEST(HttpParserTest, ReadsTheSameHoweverItComes) {
  const std::string bytes = post("X-A: 1\r\nx-a:2\r\nContent-Length: 11\r\n", "hello world") + "GET /next";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    const Outcome outcome = parse(bytes, step);
    ASSERT_EQ(outcome.state, State::done) << step;
    EXPECT_EQ(outcome.request.method, "POST");
    EXPECT_EQ(outcome.request.path, "/generate");
    EXPECT_EQ(outcome.request.header("x-a"), "1, 2");
    EXPECT_EQ(outcome.request.body, "hello world");
    EXPECT_EQ(outcome.rest, "GET /next");
  }
}

TEST(HttpParserTest, ReadsChunksHoweverTheyCome) {
  const std::string bytes = post("Transfer-Encoding: chunked\r\n",
                                 "5;a=b\r\nhello\r\n006\r\n world\r\n0\r\nAuthorization: Bearer x\r\n\r\n") +
                            "rest";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    const Outcome outcome = parse(bytes, step);
    ASSERT_EQ(outcome.state, State::done) << step;
    EXPECT_EQ(outcome.request.body, "hello world");
    EXPECT_EQ(outcome.rest, "rest");
    EXPECT_EQ(outcome.request.header("authorization"), "") << "a trailer is no header";
  }
}

TEST(HttpParserTest, PathsAreDecodedOnce) {
  const auto path = [](std::string_view target) {
    return parse(fmt::format("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target));
  };
  EXPECT_EQ(path("/v1/models/a%2Fb%20c?x=%zz").request.path, "/v1/models/a/b c");
  EXPECT_EQ(path("/%2568ealth").request.path, "/%68ealth");
  for (const char* bad : {"/%", "/%4", "/%zz", "/a%00b", "*", "health", "http://a/health"}) {
    EXPECT_EQ(path(bad).state, State::failed) << bad;
  }
}

// -- where a request ends: one reading only ----------------------------------

TEST(HttpParserTest, SmugglingTwoLengths) {
  expect_refused(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
  expect_refused(post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"));
  expect_refused(post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"));
  expect_refused(post("Content-Length: 5, 6\r\n", "hello!"));
}

TEST(HttpParserTest, SmugglingLengthsThatAreNoNumbers) {
  for (const char* length : {"+5", "-5", "5x", "0x5", "5 5", "", "99999999999999999999999", "5.0"}) {
    expect_refused(post(fmt::format("Content-Length: {}\r\n", length), "hello"));
  }
}

TEST(HttpParserTest, SmugglingTransferCodings) {
  for (const char* coding : {"gzip", "identity", "xchunked", "chunked, gzip", "gzip, chunked", "chunked, chunked",
                             "chunked;q=1", "\"chunked\"", "\vchunked", ","}) {
    expect_refused(post(fmt::format("Transfer-Encoding: {}\r\n", coding), "0\r\n\r\n"));
  }
  expect_refused(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
  expect_refused(post("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", "hello"));
  expect_refused("POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

TEST(HttpParserTest, SmugglingLines) {
  expect_refused("GET /health HTTP/1.1\nHost: a\n\n");
  expect_refused("GET /health HTTP/1.1\r\nHost: a\nX: b\r\n\r\n");
  expect_refused("GET /health HTTP/1.1\r\nHost: a\rX: b\r\n\r\n");
  expect_refused(get("Content-Length : 5\r\n"));
  expect_refused(get(" X: folded\r\n"));
  expect_refused(get("X: a\r\n folded\r\n"));
  expect_refused(get("X: a\r\n\tContent-Length: 5\r\n"));
  expect_refused(get("X\r\n"));
  expect_refused(get(": x\r\n"));
  expect_refused(get(std::string_view("X: a\0b\r\n", 8)));
  expect_refused("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
  expect_refused("GET /health HTTP/1.1\r\n\r\n");
}

TEST(HttpParserTest, SmugglingChunks) {
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  for (const char* body : {"5\nhello\r\n0\r\n\r\n", "5 \r\nhello0\r\n\r\n", "-5\r\nhello\r\n",
                           "0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n", "g\r\n",
                           "\r\n0\r\n\r\n", "fffffffffffffffff\r\nx\r\n", "5;\n\r\nhello\r\n0\r\n\r\n"}) {
    expect_refused(post(chunked, body), std::string_view(body).starts_with("fff") ? 400 : 400);
  }
}

TEST(HttpParserTest, OtherProtocols) {
  expect_refused("GET /health HTTP/2.0\r\nHost: a\r\n\r\n");
  expect_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  expect_refused("GET /health\r\n\r\n");
  expect_refused("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
}

// -- what a request may cost --------------------------------------------------

TEST(HttpParserTest, CVE_2025_48956_headers_have_a_limit) {
  const HttpParserLimits limits{.header_bytes_max = 4096, .body_bytes_max = 100};
  const std::string many(200, 'x');
  std::string bytes = "GET /health HTTP/1.1\r\nHost: a\r\n";
  for (int i = 0; i < 100; ++i) bytes += fmt::format("X-{}: {}\r\n", i, many);
  for (const std::string& endless : {bytes, "GET /" + std::string(9000, 'a'), get("X: " + std::string(9000, 'a')),
                                     get(std::string(9000, 'a') + ": x"), std::string(9000, 'G')}) {
    for (const size_t step : {size_t{1}, size_t{100}, endless.size()}) {
      const Outcome outcome = parse(endless, step, limits);
      EXPECT_EQ(outcome.state, State::failed) << endless.substr(0, 40) << step;
      EXPECT_TRUE(outcome.status == 431 || outcome.status == 400) << outcome.status;
    }
  }
  EXPECT_EQ(parse(bytes, 100, limits).status, 431);
  EXPECT_EQ(parse(get("X: " + std::string(3000, 'a') + "\r\n"), 100, limits).state, State::done);
}

TEST(HttpParserTest, CVE_2025_48956_bodies_have_a_limit) {
  const HttpParserLimits limits{.header_bytes_max = 4096, .body_bytes_max = 100};
  EXPECT_EQ(parse(post("Content-Length: 100\r\n", std::string(100, 'x')), 9, limits).state, State::done);
  EXPECT_EQ(parse(post("Content-Length: 101\r\n", ""), 9, limits).status, 413) << "before any of it has come";
  EXPECT_EQ(parse(post("Content-Length: 18446744073709551615\r\n", ""), 9, limits).status, 413);
  std::string chunks;
  for (int i = 0; i < 101; ++i) chunks += "1\r\nx\r\n";
  EXPECT_EQ(parse(post("Transfer-Encoding: chunked\r\n", chunks), 9, limits).status, 413);
  EXPECT_EQ(parse(post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n"), 9, limits).status, 413);
}

TEST(HttpParserTest, CVE_2025_48956_what_stands_between_chunks_has_a_limit) {
  const HttpParserLimits limits{.header_bytes_max = 4096, .body_bytes_max = 1 << 20};
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  for (const std::string& body : {"1;" + std::string(5000, 'a') + "\r\nx\r\n",
                                  std::string("0\r\nX: ") + std::string(5000, 'a'), std::string(5000, '0') + "\r\n"}) {
    for (const size_t step : {size_t{1}, size_t{100}, size_t{9000}}) {
      const Outcome outcome = parse(post(chunked, body), step, limits);
      EXPECT_EQ(outcome.state, State::failed) << body.substr(0, 20) << step;
      EXPECT_EQ(outcome.status, 431) << body.substr(0, 20) << step;
    }
  }
  std::string extended;
  for (int i = 0; i < 100; ++i) extended += "1;" + std::string(100, 'a') + "\r\nx\r\n";
  const Outcome outcome = parse(post(chunked, extended), 100, limits);
  EXPECT_EQ(outcome.status, 431) << "bytes of extensions are counted over all chunks";
}

TEST(HttpParserTest, RefusalsAreJsonAndShort) {
  const Outcome outcome = parse("GET /\xff\x01 HTTP/1.1\r\n\r\n");
  ASSERT_EQ(outcome.state, State::failed);
  EXPECT_THAT(outcome.message, HasSubstr("\"error\""));
  EXPECT_LT(outcome.message.size(), 300U);
}

}  // namespace
}  // namespace keye::server
