#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "base/file.h"
#include "media/fetch.h"

namespace keye::media {
namespace {

/// `openssl s_server` on 127.0.0.1 with a certificate that nobody vouches for.
class StrangerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(::testing::TempDir()) / "keye_tls_test";
    std::filesystem::create_directories(folder_);
    const std::string make = fmt::format(
        "cd '{}' && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out "
        "certificate -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 2>/dev/null",
        folder_.string());
    if (std::system(make.c_str()) != 0) GTEST_SKIP() << "no openssl here";
    start();
  }
  void TearDown() override {
    if (server_ > 0) {
      ::kill(server_, SIGKILL);
      ::waitpid(server_, nullptr, 0);
    }
    if (said_ >= 0) ::close(said_);
    std::filesystem::remove_all(folder_);
  }

  void start() {
    std::array<int, 2> out{};
    ASSERT_EQ(::pipe(out.data()), 0);
    server_ = ::fork();
    if (server_ == 0) {
      ::dup2(out[1], STDOUT_FILENO);
      ::close(STDERR_FILENO);  // it would tell of the failed greeting
      if (::chdir(folder_.c_str()) == 0)
        ::execlp("openssl", "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", "certificate", "-key", "key",
                 "-WWW", nullptr);
      ::_exit(127);
    }
    ::close(out[1]);
    std::string said;
    char c = 0;
    constexpr std::string_view kAccepts = "ACCEPT 127.0.0.1:";
    said_ = out[0];
    while (said.find(kAccepts) == std::string::npos && ::read(said_, &c, 1) == 1) said += c;
    while (::read(said_, &c, 1) == 1 && c != '\n') port_ += c;
  }

  Path folder_;
  pid_t server_ = -1;
  int said_ = -1;  // stays open, for a server that cannot write ends
  std::string port_;
};

TEST_F(StrangerTest, CertificatesAreVerified) {
  const FetchPolicy policy{.domains = {"127.0.0.1"}, .timeout = std::chrono::seconds(20)};
  const auto bytes = fetch_media(fmt::format("https://127.0.0.1:{}/certificate", port_), policy, {});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::unavailable);
  EXPECT_EQ(bytes.error().message, "the server's certificate is not trusted, or is another host's");
}

}  // namespace
}  // namespace keye::media
