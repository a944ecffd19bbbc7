#include "media/sandbox.h"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <initializer_list>

namespace keye::media {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

int limit(decltype(RLIMIT_AS) what, uint64_t value) {
  rlimit now{};
  if (::getrlimit(what, &now) != 0) return errno;
  const rlim_t bounded = std::min<rlim_t>(value, now.rlim_max);
  const rlimit wanted{bounded, bounded};
  return ::setrlimit(what, &wanted) == 0 ? 0 : errno;
}

/// Bytes of address space in use.
uint64_t address_space() {
  const int fd = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  char text[64] = {};
  const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text) - 1) : -1;
  if (fd >= 0) ::close(fd);
  unsigned long long pages = 0;
  if (got <= 0 || std::sscanf(text, "%llu", &pages) != 1) pages = 65536;  // no /proc: what FFmpeg's libraries need
  return pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void go_first_when_memory_is_short() {
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t put = ::write(fd, "1000", 4);
  ::close(fd);
}

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_KILL_PROCESS)) {}
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;
  ~Filter() {
    if (context_ != nullptr) ::seccomp_release(context_);
  }

  /// `name` may be a call that this architecture does not have.
  void rule(uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    if (context_ == nullptr || failure_ != 0) return;
    const int call = ::seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR) return;
    failure_ = ::seccomp_rule_add_array(context_, action, call, static_cast<unsigned>(conditions.size()),
                                        conditions.size() == 0 ? nullptr : conditions.begin());
  }
  void allow(const char* name, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    rule(SCMP_ACT_ALLOW, name, conditions);
  }

  /// 0, or errno.
  int load() {
    if (context_ == nullptr) return ENOMEM;
    if (failure_ == 0) failure_ = ::seccomp_attr_set(context_, SCMP_FLTATR_CTL_TSYNC, 1);
    if (failure_ == 0) failure_ = ::seccomp_load(context_);
    return -failure_;
  }

 private:
  scmp_filter_ctx context_;
  int failure_ = 0;
};

void allow_memory(Filter& filter) {
  constexpr scmp_datum_t kExecutable = PROT_EXEC;
  for (const char* name : {"mmap", "mprotect"}) filter.allow(name, {SCMP_A2(SCMP_CMP_MASKED_EQ, kExecutable, 0)});
  for (const char* name : {"munmap", "mremap", "madvise", "brk"}) filter.allow(name);
}

void allow_threads(Filter& filter) {
  constexpr scmp_datum_t kThread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
  filter.allow("clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, kThread, kThread)});
  // Its flags lie in memory, where no filter sees them; the C library takes clone() instead.
  filter.rule(SCMP_ACT_ERRNO(ENOSYS), "clone3");
  for (const char* name : {"futex", "futex_time64", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity",
                           "gettid", "getpid", "exit", "exit_group", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
                           "sigaltstack", "membarrier", "restart_syscall"}) {
    filter.allow(name);
  }
  filter.allow("prctl", {SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)});
}

void allow_files(Filter& filter, int socket) {
  const auto on_socket = static_cast<scmp_datum_t>(socket);
  for (const char* name : {"read", "pread64", "write", "close", "fstat"}) filter.allow(name);
  // Refused without death: the demuxer of MPEG-TS asks the C library for converters of the texts in it, which are
  // files.
  for (const char* name : {"openat", "open"}) filter.rule(SCMP_ACT_ERRNO(EACCES), name);
  filter.allow("sendto", {SCMP_A0(SCMP_CMP_EQ, on_socket), SCMP_A4(SCMP_CMP_EQ, 0)});
  filter.allow("recvmsg", {SCMP_A0(SCMP_CMP_EQ, on_socket)});
}

void allow_rest(Filter& filter) {
  for (const char* name : {"clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "getrandom"}) {
    filter.allow(name);
  }
  if (!kSanitized) return;
  // How a sanitizer tries whether an address can be read.
  for (const char* name : {"pipe", "pipe2"}) filter.allow(name);
}

}  // namespace

int limit_process(const SandboxLimits& limits) {
  go_first_when_memory_is_short();
  int failure = limit(RLIMIT_CORE, 0);
  if (failure == 0) failure = limit(RLIMIT_FSIZE, 0);
  if (failure == 0) failure = limit(RLIMIT_NOFILE, 16);
  if (failure == 0) failure = limit(RLIMIT_CPU, static_cast<uint64_t>(limits.cpu_seconds));
  // The sanitizers' shadow memory takes all address space that there is.
  if (failure == 0 && !kSanitized) {
    failure = limit(RLIMIT_AS, address_space() + static_cast<uint64_t>(limits.memory_max));
  }
  return failure;
}

int enter_sandbox(int socket) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return errno;
  Filter filter;
  allow_memory(filter);
  allow_threads(filter);
  allow_files(filter, socket);
  allow_rest(filter);
  return filter.load();
}

}  // namespace keye::media
