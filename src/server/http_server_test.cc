#include "server/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "server/http_parser.h"

namespace keye::server {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int kPatienceS = 30;

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kPatienceS);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return true;
}

/// A client's connection, blocking; over TLS if it has a context.
class Client {
 public:
  explicit Client(uint16_t port, ::SSL_CTX* tls = nullptr, int receive_bytes = 0) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{.tv_sec = kPatienceS, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (receive_bytes > 0) ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    KEYE_CHECK(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    if (tls == nullptr) return;
    tls_ = ::SSL_new(tls);
    ::SSL_set_fd(tls_, socket_);
    greeted_ = ::SSL_connect(tls_) == 1;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool greeted() const { return greeted_; }
  /// False when the server has gone.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = tls_ != nullptr ? ::SSL_write(tls_, bytes.data(), static_cast<int>(bytes.size()))
                                           : ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  /// Up to and with `marker`, or to the end.
  std::string read_until(std::string_view marker) {
    size_t at = 0;
    while ((at = input_.find(marker)) == std::string::npos && receive()) {
    }
    const size_t end = at == std::string::npos ? input_.size() : at + marker.size();
    std::string taken = input_.substr(0, end);
    input_.erase(0, end);
    return taken;
  }
  /// Head and body of a response with a Content-Length.
  std::string read_response() {
    std::string response = read_until("\r\n\r\n");
    constexpr std::string_view kLength = "Content-Length: ";
    const size_t at = response.find(kLength);
    if (at == std::string::npos) return response;
    const size_t length = std::strtoull(response.c_str() + at + kLength.size(), nullptr, 10);
    while (input_.size() < length && receive()) {
    }
    response += input_.substr(0, length);
    input_.erase(0, length);
    return response;
  }
  std::string read_to_end() {
    while (receive()) {
    }
    return std::exchange(input_, {});
  }
  /// Nothing more came, and the server has closed.
  bool ended() { return read_to_end().empty(); }
  void end_sending() const { ::shutdown(socket_, SHUT_WR); }
  void close() {
    if (tls_ != nullptr) ::SSL_free(std::exchange(tls_, nullptr));
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  /// Ends with a reset instead of an end.
  void reset() {
    const linger hard{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }

 private:
  bool receive() {
    char buffer[16384];
    const ssize_t got =
        tls_ != nullptr ? ::SSL_read(tls_, buffer, sizeof buffer) : ::recv(socket_, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) ADD_FAILURE() << "nothing came in " << kPatienceS << " s";
    if (got <= 0) return false;
    input_.append(buffer, static_cast<size_t>(got));
    return true;
  }

  int socket_ = -1;
  ::SSL* tls_ = nullptr;
  bool greeted_ = true;
  std::string input_;
};

std::string get(std::string_view path, std::string_view headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: here\r\n{}\r\n", path, headers);
}
std::string post(std::string_view path, std::string_view body, std::string_view headers = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: here\r\n{}Content-Length: {}\r\n\r\n{}", path, headers, body.size(),
                     body);
}
std::string post_chunked(std::string_view path, std::string_view framed_body) {
  return fmt::format("POST {} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n{}", path, framed_body);
}

/// A server whose handlers are named by the path.
class HttpServerTest : public ::testing::Test {
 protected:
  void start() {
    std::signal(SIGPIPE, SIG_IGN);  // of the client's TLS
    HttpHooks hooks;
    hooks.screen = [](const HttpRequest& request) -> std::optional<HttpResponse> {
      if (request.path != "/forbidden") return std::nullopt;
      return error_response(401, "no");
    };
    hooks.handler = [this](const std::shared_ptr<Exchange>& exchange) { handle(exchange); };
    hooks.headers = [](const HttpRequest&) { return HttpHeaders{{"X-Test", "yes"}}; };
    hooks.ended = [this](const HttpRequest& request, const ResponseRecord& record) {
      const std::lock_guard lock(mutex_);
      ended_.push_back(fmt::format("{} {}{}", request.path, record.status, record.complete ? "" : " cut"));
    };
    auto server = HttpServer::start(options_, std::move(hooks));
    ASSERT_TRUE(server) << server.error().to_string();
    server_ = std::move(*server);
  }
  void TearDown() override {
    if (server_) server_->stop();
    for (std::thread& thread : threads_) thread.join();
    waiting_.clear();
  }

  void handle(const std::shared_ptr<Exchange>& exchange) {
    const std::string& path = exchange->request().path;
    if (path == "/echo") {
      std::string text = exchange->request().method + " " + exchange->take_body();
      exchange->respond({.status = 200, .headers = {{"Content-Type", "text/plain"}}, .body = std::move(text)});
    } else if (path == "/later") {  // from another thread, as replies come
      const std::lock_guard lock(mutex_);
      threads_.emplace_back([exchange, body = exchange->take_body()] {
        std::this_thread::sleep_for(milliseconds(5));
        exchange->post(
            [exchange, body] { exchange->respond({.status = 200, .headers = {}, .body = "later " + body}); });
      });
    } else if (path == "/stream") {
      exchange->begin_stream(200, {{"Content-Type", "text/event-stream"}}, ": ping\n\n");
      for (int i = 0; i < 3; ++i) exchange->write(fmt::format("data: {}\n\n", i));
      exchange->end_stream();
    } else {  // "/wait", "/open": somebody else ends them
      if (path == "/open") exchange->begin_stream(200, {}, ": ping\n\n");
      exchange->on_close([this] { ++closes_; });
      exchange->on_drain([this] { ++drains_; });
      const std::lock_guard lock(mutex_);
      waiting_.push_back(exchange);
    }
  }

  /// The exchange of the n-th request for "/wait" or "/open", when it is there.
  std::shared_ptr<Exchange> waiting(size_t n = 0) {
    std::shared_ptr<Exchange> found;
    EXPECT_TRUE(wait_until([&] {
      const std::lock_guard lock(mutex_);
      if (waiting_.size() > n) found = waiting_[n];
      return found != nullptr;
    }));
    return found;
  }
  std::vector<std::string> ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  /// On the server's thread, and done when this returns.
  void on_server(const std::function<void()>& task) {
    std::atomic<bool> done = false;
    server_->post([&] {
      task();
      done = true;
    });
    EXPECT_TRUE(wait_until([&] { return done.load(); }));
  }
  uint16_t port() const { return server_->port(); }

  HttpServerOptions options_{.port = 0};
  std::unique_ptr<HttpServer> server_;
  std::atomic<int> closes_ = 0, drains_ = 0;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Exchange>> waiting_;
  std::vector<std::string> ended_;
  std::vector<std::thread> threads_;
};

// -- requests and responses --------------------------------------------------

TEST_F(HttpServerTest, ConnectionsAreKept) {
  start();
  Client client(port());
  for (int i = 0; i < 3; ++i) {
    client.send(post("/echo", fmt::format("body {}", i)));
    const std::string response = client.read_response();
    EXPECT_THAT(response, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(response, HasSubstr(fmt::format("\r\n\r\nPOST body {}", i)));
    EXPECT_THAT(response, HasSubstr("\r\nX-Test: yes\r\n"));
    EXPECT_THAT(response, Not(HasSubstr("Connection:")));
  }
  EXPECT_EQ(server_->stats().accepted, 1U);
  client.send(get("/echo", "Connection: close\r\n"));
  EXPECT_THAT(client.read_response(), HasSubstr("\r\nConnection: close\r\n"));
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0; }));
}

TEST_F(HttpServerTest, Http10EndsUnlessItAsksForMore) {
  start();
  Client once(port());
  once.send("GET /echo HTTP/1.0\r\n\r\n");
  EXPECT_THAT(once.read_to_end(), HasSubstr("\r\n\r\nGET "));
  Client twice(port());
  for (int i = 0; i < 2; ++i) {
    twice.send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_THAT(twice.read_response(), HasSubstr("\r\nConnection: keep-alive\r\n"));
  }
  Client stream(port());  // without chunks: its end is the end of the connection
  stream.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_THAT(stream.read_to_end(), ::testing::EndsWith("\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"));
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  Client client(port());
  std::string all;
  for (int i = 0; i < 40; ++i) all += post(i % 3 == 0 ? "/later" : "/echo", std::to_string(i));
  ASSERT_TRUE(client.send(all));
  for (int i = 0; i < 40; ++i) {
    EXPECT_THAT(client.read_response(),
                ::testing::EndsWith(fmt::format("\r\n\r\n{}{}", i % 3 == 0 ? "later " : "POST ", i)));
  }
}

TEST_F(HttpServerTest, RequestsMayComeByteByByte) {
  start();
  Client client(port());
  for (const std::string& request :
       {post("/echo", "slow"), post_chunked("/echo", "2;x=y\r\nsl\r\n2\r\now\r\n0\r\nA: b\r\n\r\n")}) {
    for (const char c : request) ASSERT_TRUE(client.send({&c, 1}));
    EXPECT_THAT(client.read_response(), ::testing::EndsWith("\r\n\r\nPOST slow"));
  }
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  start();
  Client client(port());
  client.send("HEAD /echo HTTP/1.1\r\nHost: here\r\n\r\n" + get("/echo"));
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("\r\nContent-Length: 5\r\n"));
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, StreamsAreChunked) {
  start();
  Client client(port());
  client.send(get("/stream"));
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("\r\nTransfer-Encoding: chunked\r\n"));
  EXPECT_EQ(client.read_until("\r\n0\r\n\r\n"),
            "9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n");
  client.send(get("/echo"));  // and the connection goes on
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, SilentStreamsArePinged) {
  options_.limits.ping_interval = milliseconds(20);
  start();
  Client client(port());
  client.send(get("/open"));
  for (int i = 0; i < 3; ++i) EXPECT_THAT(client.read_until(": ping\n\n"), HasSubstr(": ping\n\n"));
  const auto exchange = waiting();
  on_server([&] {
    exchange->write("data: end\n\n");
    exchange->end_stream();
  });
  EXPECT_THAT(client.read_until("\r\n0\r\n\r\n"), ::testing::EndsWith("data: end\n\n\r\n0\r\n\r\n"));
  std::this_thread::sleep_for(milliseconds(80));  // no ping after the end
  client.send(get("/echo"));
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, ABodyIsInvitedOrRefusedBeforeItComes) {
  start();
  Client client(port());
  const std::string expecting =
      "POST /echo HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
  client.send(expecting);
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("body");
  EXPECT_THAT(client.read_response(), ::testing::EndsWith("\r\n\r\nPOST body"));
  client.send(expecting + "body");  // who sends it at once needs no invitation
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 OK"));
  client.send("POST /forbidden HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_THAT(client.read_to_end(), StartsWith("HTTP/1.1 401"));
  Client other(port());
  other.send("POST /echo HTTP/1.1\r\nHost: here\r\nExpect: miracles\r\nContent-Length: 4\r\n\r\n");
  EXPECT_THAT(other.read_to_end(), StartsWith("HTTP/1.1 417"));
}

TEST_F(HttpServerTest, MalformedRequestsAreRefused) {
  start();
  for (const std::string& request : {
           std::string("nonsense\r\n\r\n"),
           std::string("GET nowhere HTTP/1.1\r\nHost: here\r\n\r\n"),
           std::string("GET /%zz HTTP/1.1\r\nHost: here\r\n\r\n"),
           std::string("GET /a%00b HTTP/1.1\r\nHost: here\r\n\r\n"),
           std::string("GET / HTTP/3.1\r\nHost: here\r\n\r\n"),
           std::string("POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n"),
           std::string("POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
           post_chunked("/echo", "zz\r\n"),
           post_chunked("/echo", "fffffffffffffffff\r\n"),
           post_chunked("/echo", "2\r\nabc\r\n0\r\n\r\n"),
       }) {
    Client client(port());
    client.send(request);
    EXPECT_THAT(client.read_to_end(), StartsWith("HTTP/1.1 4")) << request;
  }
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0; }));
}

// -- limits ------------------------------------------------------------------

TEST_F(HttpServerTest, SizesAreLimited) {
  options_.limits.header_bytes_max = 1024;
  options_.limits.body_bytes_max = 100;
  start();
  Client fits(port());
  fits.send(post("/echo", std::string(100, 'b'), fmt::format("X-Long: {}\r\n", std::string(900, 'h'))));
  EXPECT_THAT(fits.read_response(), StartsWith("HTTP/1.1 200 OK"));
  const auto refusal = [&](const std::string& request) {
    Client client(port());
    client.send(request);
    return client.read_to_end();
  };
  EXPECT_THAT(refusal(get("/echo", fmt::format("X-Long: {}\r\n", std::string(1024, 'h')))), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(refusal("GET /" + std::string(5000, 'p')), StartsWith("HTTP/1.1 431"));  // before its end
  EXPECT_THAT(refusal("POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 101\r\n\r\n"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(refusal(post_chunked("/echo", fmt::format("65\r\n{}\r\n0\r\n\r\n", std::string(101, 'b')))),
              StartsWith("HTTP/1.1 413"));
}

TEST_F(HttpServerTest, BodiesAreLimitedTogether) {
  options_.limits.all_bodies_bytes_max = 1000;
  start();
  Client first(port());
  first.send("POST /echo HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 800\r\n\r\n");
  first.read_until("\r\n\r\n");
  Client second(port());
  second.send("POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 300\r\n\r\nb");
  const std::string refused = second.read_to_end();
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(refused, HasSubstr("\r\nRetry-After: 1\r\n"));
  first.send(std::string(800, 'b'));
  EXPECT_THAT(first.read_response(), StartsWith("HTTP/1.1 200 OK"));
  Client third(port());
  third.send(post("/echo", std::string(300, 'b')));
  EXPECT_THAT(third.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, TimesAreLimited) {
  options_.limits.header_timeout = milliseconds(150);
  options_.limits.body_timeout = milliseconds(150);
  options_.limits.idle_timeout = milliseconds(300);
  start();
  Client header(port()), body(port()), idle(port()), used(port());
  header.send("GET /echo HTTP/1.1\r\nHo");
  body.send("POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbo");
  used.send(get("/echo"));
  EXPECT_THAT(used.read_response(), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(header.read_to_end(), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(body.read_to_end(), StartsWith("HTTP/1.1 408"));
  EXPECT_TRUE(idle.ended());
  EXPECT_TRUE(used.ended());
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0; }));
}

TEST_F(HttpServerTest, ASlowTrickleIsNoWayAroundTheLimits) {
  options_.limits.header_timeout = milliseconds(200);
  start();
  Client client(port());
  client.send("GET /echo HTTP/1.1\r\n");
  const auto begin = std::chrono::steady_clock::now();
  while (client.send("X: y\r\n") && std::chrono::steady_clock::now() - begin < std::chrono::seconds(kPatienceS)) {
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(kPatienceS));
}

TEST_F(HttpServerTest, ConnectionsAreLimited) {
  options_.limits.connections_max = 3;
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<Client>(port()));
    clients.back()->send(get("/echo"));
    EXPECT_THAT(clients.back()->read_response(), StartsWith("HTTP/1.1 200 OK"));
  }
  Client over(port());
  EXPECT_TRUE(over.ended());
  EXPECT_EQ(server_->stats().refused, 1U);
  clients.pop_back();
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 2; }));
  Client again(port());
  again.send(get("/echo"));
  EXPECT_THAT(again.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

// -- slow readers, and those that go away ------------------------------------

TEST_F(HttpServerTest, ASlowReaderIsNoticedAndThenGivenUp) {
  options_.limits.write_timeout = milliseconds(300);
  start();
  Client slow(port(), nullptr, 4096);
  slow.send(get("/open"));
  const auto exchange = waiting();
  const std::string block(100'000, 'x');
  size_t backlog = 0;
  for (int i = 0; i < 200 && backlog < 10 * block.size(); ++i) {
    on_server([&] {
      exchange->write(block);
      backlog = exchange->backlog();
    });
  }
  EXPECT_GE(backlog, 10 * block.size());  // the system takes no more
  Client other(port());
  other.send(get("/echo"));
  EXPECT_THAT(other.read_response(), StartsWith("HTTP/1.1 200 OK"));  // which is nobody else's trouble
  EXPECT_TRUE(wait_until([&] { return closes_ == 1; }));
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 1; }));
  on_server([&] {
    EXPECT_TRUE(exchange->closed());
    exchange->write(block);  // is dropped
    EXPECT_EQ(exchange->backlog(), 0U);
  });
  EXPECT_THAT(ended(), ::testing::Contains("/open 200 cut"));
}

TEST_F(HttpServerTest, AReaderThatCatchesUpGetsAllOfIt) {
  start();
  Client client(port(), nullptr, 4096);
  client.send(get("/open"));
  const auto exchange = waiting();
  EXPECT_TRUE(wait_until([&] { return drains_ > 0; }));  // the head is sent
  std::string all(8'000'000, 'x');
  on_server([&] {
    drains_ = 0;
    exchange->write(all);
    exchange->end_stream();
  });
  EXPECT_EQ(drains_, 0);
  client.read_until("\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n0\r\n\r\n").size(), all.size() + std::string_view("7a1200\r\n\r\n0\r\n\r\n").size());
  EXPECT_TRUE(wait_until([&] { return server_->stats().answering == 0; }));
  EXPECT_EQ(drains_, 1);
  EXPECT_EQ(closes_, 0);
  EXPECT_THAT(ended(), ::testing::ElementsAre("/open 200"));
}

TEST_F(HttpServerTest, ABacklogHasAnEnd) {
  options_.limits.backlog_bytes_max = 1'000'000;
  start();
  Client client(port(), nullptr, 4096);
  client.send(get("/open"));
  const auto exchange = waiting();
  for (int i = 0; i < 300 && closes_ == 0; ++i) on_server([&] { exchange->write(std::string(100'000, 'x')); });
  EXPECT_EQ(closes_, 1);
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0; }));
}

TEST_F(HttpServerTest, WhoGoesAwayIsNoticedWhileTheAnswerIsMade) {
  start();
  for (const char* path : {"/wait", "/open"}) {
    for (const bool hard : {false, true}) {
      const int before = closes_;
      Client client(port());
      client.send(get(path));
      waiting(static_cast<size_t>(before));
      hard ? client.reset() : client.close();
      EXPECT_TRUE(wait_until([&] { return closes_ == before + 1; })) << path << (hard ? ", reset" : "");
    }
  }
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0 && server_->stats().answering == 0; }));
  for (size_t i = 0; i < 4; ++i) {  // what comes too late is dropped
    const auto exchange = waiting(i);
    on_server([&] {
      if (i < 2) return exchange->respond({.status = 200, .headers = {}, .body = "late"});
      exchange->write("late");
      exchange->end_stream();
    });
  }
  EXPECT_EQ(closes_, 4);
}

TEST_F(HttpServerTest, WhoEndsItsSideGetsWhatIsThereAtOnceAndNothingElse) {
  start();
  Client quick(port());
  quick.send(post("/echo", "1") + post("/echo", "2"));
  quick.end_sending();
  EXPECT_THAT(quick.read_response(), ::testing::EndsWith("POST 1"));
  // A client that is gone looks the same, so nothing long is done for it: whether its end comes with the request ...
  Client gone(port());
  gone.send(get("/wait"));
  gone.end_sending();
  EXPECT_TRUE(gone.ended());
  EXPECT_TRUE(wait_until([&] { return closes_ == 1; }));
  // ... or after it.
  Client going(port());
  going.send(get("/open"));
  waiting(1);
  going.end_sending();
  going.read_until("\r\n\r\n");
  EXPECT_TRUE(going.ended());
  EXPECT_EQ(closes_, 2);
}

// -- many, and the end -------------------------------------------------------

TEST_F(HttpServerTest, ManyClientsFromManyThreads) {
  start();
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) {
        Client client(port());
        const std::string body = fmt::format("{}-{}", c, i);
        client.send(post("/later", body) + post("/echo", body));
        if (i % 3 == 0) continue;  // goes away
        right += client.read_response().ends_with("\r\n\r\nlater " + body);
        right += client.read_response().ends_with("\r\n\r\nPOST " + body);
        server_->stats();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 8 * 6 * 2);
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0 && server_->stats().answering == 0; }));
}

TEST_F(HttpServerTest, DrainingEndsWhatIsIdleAndLetsTheRestFinish) {
  start();
  Client idle(port()), busy(port()), open(port());
  idle.send(get("/echo"));
  idle.read_response();
  busy.send(get("/wait"));
  waiting(0);
  open.send(get("/open"));
  const auto stream = waiting(1);
  const auto wait = waiting(0);
  server_->drain();
  EXPECT_TRUE(idle.ended());
  EXPECT_EQ(server_->stats().answering, 2);
  Client late(port());  // is told what is the case, once
  late.send(get("/echo"));
  EXPECT_THAT(late.read_response(), HasSubstr("\r\nConnection: close\r\n"));
  EXPECT_TRUE(late.ended());
  on_server([&] {
    const bool first_is_wait = wait->request().path == "/wait";
    (first_is_wait ? wait : stream)->respond({.status = 200, .headers = {}, .body = "done"});
    (first_is_wait ? stream : wait)->write("data: done\n\n");
    (first_is_wait ? stream : wait)->end_stream();
  });
  EXPECT_THAT(busy.read_to_end(), HasSubstr("\r\nConnection: close\r\n\r\ndone"));
  EXPECT_THAT(open.read_to_end(), ::testing::EndsWith("data: done\n\n\r\n0\r\n\r\n"));
  EXPECT_TRUE(wait_until([&] { return server_->stats().connections == 0; }));
}

TEST_F(HttpServerTest, StoppingEndsEverything) {
  start();
  Client idle(port()), open(port());
  open.send(get("/open"));
  const auto exchange = waiting();
  server_->stop();
  EXPECT_TRUE(idle.ended());
  open.read_to_end();
  EXPECT_EQ(closes_, 1);
  EXPECT_TRUE(exchange->closed());
  exchange->post([] { FAIL() << "there is no thread for it any more"; });
}

TEST_F(HttpServerTest, AnAddressInUse) {
  start();
  const auto second = HttpServer::start({.port = port()}, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::io);
  EXPECT_THAT(second.error().to_string(),
              HasSubstr(fmt::format("127.0.0.1:{}: cannot listen: Address already in use", port())));
  const auto nowhere = HttpServer::start({.host = "no.such.host.invalid", .port = 0}, {});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, ErrorCode::io);
}

// -- TLS ---------------------------------------------------------------------

class TlsServerTest : public HttpServerTest {
 protected:
  void SetUp() override {
    folder_ = Path(::testing::TempDir()) / "keye_http_server_test";
    std::filesystem::create_directories(folder_);
    const std::string make = fmt::format(
        "cd '{}' && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out "
        "certificate.pem -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 2>/dev/null",
        folder_.string());
    ASSERT_EQ(std::system(make.c_str()), 0) << "openssl made no certificate";
    options_.tls.certificate = certificate();
    options_.tls.key = key();
    context_ = ::SSL_CTX_new(::TLS_client_method());
    ::SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    ASSERT_EQ(::SSL_CTX_load_verify_locations(context_, certificate().c_str(), nullptr), 1);
  }
  void TearDown() override {
    HttpServerTest::TearDown();
    ::SSL_CTX_free(context_);
    std::filesystem::remove_all(folder_);
  }
  std::string certificate() const { return folder_ / "certificate.pem"; }
  std::string key() const { return folder_ / "key.pem"; }

  Path folder_;
  ::SSL_CTX* context_ = nullptr;
};

TEST_F(TlsServerTest, TheSameOverTls) {
  start();
  Client client(port(), context_);
  ASSERT_TRUE(client.greeted());
  const std::string body(300'000, 'b');
  for (int i = 0; i < 2; ++i) {
    client.send(post("/echo", body));
    EXPECT_THAT(client.read_response(), ::testing::EndsWith("\r\n\r\nPOST " + body));
  }
  client.send(get("/stream") + get("/later", "Connection: close\r\n"));
  client.read_until("\r\n0\r\n\r\n");
  EXPECT_THAT(client.read_to_end(), ::testing::EndsWith("later "));
  Client leaver(port(), context_);
  leaver.send(get("/open"));
  waiting();
  leaver.close();
  EXPECT_TRUE(wait_until([&] { return closes_ == 1 && server_->stats().connections == 0; }));
}

TEST_F(TlsServerTest, WhoSpeaksNoTlsIsGivenUp) {
  options_.limits.header_timeout = milliseconds(200);
  start();
  Client plain(port()), silent(port());
  plain.send(get("/echo"));
  EXPECT_THAT(plain.read_to_end(), Not(HasSubstr("HTTP/1.1 200")));
  EXPECT_TRUE(silent.ended());
  ::SSL_CTX_set_max_proto_version(context_, TLS1_1_VERSION);
  EXPECT_FALSE(Client(port(), context_).greeted());
  ::SSL_CTX_set_max_proto_version(context_, 0);
  Client client(port(), context_);
  client.send(get("/echo"));
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(TlsServerTest, ClientsMayHaveToShowACertificate) {
  options_.tls.client_ca = certificate();
  start();
  Client stranger(port(), context_);
  stranger.send(get("/echo"));
  EXPECT_EQ(stranger.read_to_end(), "");
  ASSERT_EQ(::SSL_CTX_use_certificate_file(context_, certificate().c_str(), SSL_FILETYPE_PEM), 1);
  ASSERT_EQ(::SSL_CTX_use_PrivateKey_file(context_, key().c_str(), SSL_FILETYPE_PEM), 1);
  Client known(port(), context_);
  known.send(get("/echo"));
  EXPECT_THAT(known.read_response(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(TlsServerTest, FilesThatAreNone) {
  for (std::string TlsFiles::*file : {&TlsFiles::certificate, &TlsFiles::key, &TlsFiles::client_ca}) {
    HttpServerOptions options = options_;
    options.tls.*file = folder_ / "missing.pem";
    const auto server = HttpServer::start(options, {});
    ASSERT_FALSE(server);
    EXPECT_EQ(server.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(server.error().to_string(), HasSubstr("missing.pem"));
  }
}

}  // namespace
}  // namespace keye::server
