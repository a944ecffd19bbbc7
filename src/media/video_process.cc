#include "media/video_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include "media/video_report.h"

namespace keye::media {
namespace {

class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }

  /// Nothing of the parent's is left open but `socket`.
  int keep_only(int socket) {
    int failure = ::posix_spawn_file_actions_adddup2(&actions_, socket, kWorkerSocket);
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      if (failure != 0) break;
      failure = ::posix_spawn_file_actions_addopen(&actions_, standard, "/dev/null", O_RDWR, 0);
    }
    return failure != 0 ? failure : ::posix_spawn_file_actions_addclosefrom_np(&actions_, kWorkerSocket + 1);
  }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

/// No signal blocked or ignored, whatever the parent does with them.
class Attributes {
 public:
  Attributes() {
    ::posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  ~Attributes() { ::posix_spawnattr_destroy(&attributes_); }
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  out.reserve(words.size() + 1);
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

Error system_error(const char* what, int code) {
  return make_error(ErrorCode::io, "video", "cannot {}: {}", what, std::strerror(code));
}

Result<pid_t> spawn(const VideoWorkerProgram& worker, int socket) {
  FileActions actions;
  if (const int code = actions.keep_only(socket); code != 0) return system_error("prepare a worker", code);
  std::vector<std::string> words = {worker.program.string()};
  words.insert(words.end(), worker.arguments.begin(), worker.arguments.end());
  std::vector<std::string> environment = worker.environment;
  const Attributes attributes;
  pid_t id = -1;
  const int code = ::posix_spawn(&id, words[0].c_str(), actions.get(), attributes.get(), pointers(words).data(),
                                 pointers(environment).data());
  if (code != 0) return system_error("start a worker", code);
  return id;
}

}  // namespace

Result<std::unique_ptr<WorkerProcess>> WorkerProcess::start(const VideoOptions& options) {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return system_error("make a socket pair", errno);
  }
  Channel channel{Descriptor(ends[0])};
  const Descriptor other(ends[1]);
  KEYE_TRY(const pid_t id, spawn(options.worker, other.get()));
  std::unique_ptr<WorkerProcess> process(new WorkerProcess(id, std::move(channel)));
  WorkerRequest setup;
  setup.kind = WorkerRequest::Kind::setup;
  setup.threads = std::clamp(options.threads, 1, 16);
  setup.memory_max = options.limits.memory_max;
  setup.cpu_seconds = static_cast<int64_t>(std::ceil(options.limits.seconds_max)) * (setup.threads + 1);
  setup.parent = ::getpid();
  setup.optional = options.allow_unsandboxed;
  [[maybe_unused]] const auto sent = process->send(setup);  // whether it lives shows in await_ready()
  return process;
}

WorkerProcess::~WorkerProcess() {
  if (reaped_) return;
  ::kill(id_, SIGKILL);
  while (::waitpid(id_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Error WorkerProcess::how_it_died() {
  // It closed its socket, or sent what is no report: in the first case its end is near.
  int status = 0;
  pid_t got = 0;
  for (int tries = 0; tries < 100 && got == 0; ++tries) {
    got = ::waitpid(id_, &status, WNOHANG);
    if (got == 0) ::poll(nullptr, 0, 1);
  }
  reaped_ = got != 0;
  return death_error(got == id_, status);
}

Result<void> WorkerProcess::await_ready(const VideoOptions& options, Patience& patience) {
  auto report = receive(options.limits, patience);
  if (!report) {
    const ErrorCode code = report.error().code;
    if (code != ErrorCode::corrupt_data) return report.error();
    return Error{ErrorCode::unavailable, "a worker for decoding cannot be started here", "video"};
  }
  if (report->kind != WorkerReport::Kind::ready || (report->sandboxed == 0 && !options.allow_unsandboxed)) {
    return Error{ErrorCode::unavailable, "what was started as a worker is none", "video"};
  }
  return {};
}

Result<WorkerReport> WorkerProcess::receive(const VideoLimits& limits, Patience& patience) {
  auto report = channel_.receive<WorkerReport>(patience);
  if (!report) {
    switch (report.error().code) {
      case ErrorCode::deadline:
        return make_error(ErrorCode::deadline, "video", "decoding takes more than {} seconds, which is the limit",
                          limits.seconds_max);
      case ErrorCode::unavailable:
        return how_it_died();
      default:
        return report.error();
    }
  }
  if (report->kind == WorkerReport::Kind::failed) return failure_error(*report, limits);
  return report;
}

}  // namespace keye::media
