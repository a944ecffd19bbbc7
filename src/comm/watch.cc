#include "comm/watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "comm/rank_group.h"

namespace keye::comm {
namespace {

constexpr size_t kTextBytesMax = 4096;
constexpr std::chrono::milliseconds kBeatMax{1000};
/// Of the timeout: the rest is for telling everybody and for ending.
constexpr double kSilenceShare = 0.5;
constexpr std::chrono::milliseconds kFlushTime{1000};
constexpr std::chrono::milliseconds kReapTime{300};

}  // namespace

Watch::Watch(const Place& place, std::chrono::milliseconds timeout, std::shared_ptr<SharedMemory> memory,
             std::vector<Neighbour> neighbours)
    : place_(place), timeout_(timeout), memory_(std::move(memory)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  KEYE_CHECK(static_cast<bool>(wake_), "no eventfd: {}", std::strerror(errno));
  for (Neighbour& neighbour : neighbours) watched_.emplace_back(std::move(neighbour));
  thread_ = std::thread([this] { run(); });
}

Watch::~Watch() {
  {
    std::unique_lock lock(mutex_);
    if (place_.rank == 0) {
      says_goodbye_ = true;
      wake();
      over_.wait_for(lock, timeout_, [this] { return is_over_; });
    } else if (!over_.wait_for(lock, timeout_, [this] { return is_over_; })) {
      lock.unlock();
      report(fmt::format("{} left", name_of(place_, place_.rank)));
      lock.lock();
    }
    is_stopping_ = true;
  }
  wake();
  thread_.join();
  end_children();
}

void Watch::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

void Watch::report(const std::string& loss) {
  {
    const std::lock_guard lock(mutex_);
    if (reported_.empty()) reported_ = loss;
  }
  wake();
}

void Watch::on_end(std::function<void(const std::string&)> call) {
  std::unique_lock lock(mutex_);
  if (!is_over_) {
    on_end_ = std::move(call);
    return;
  }
  const std::string loss = loss_;
  lock.unlock();
  call(loss);
}

void Watch::end(const std::string& loss, const Watched* source) {
  std::function<void(const std::string&)> call;
  {
    const std::lock_guard lock(mutex_);
    if (is_over_) return;
    is_over_ = true;
    // Another rank of the node may have been first.
    if (!loss.empty()) memory_->lose(loss);
    loss_ = loss.empty() ? loss : memory_->loss();
    call = std::move(on_end_);
  }
  send_all(loss.empty() ? FrameKind::goodbye : FrameKind::loss, loss_, source);
  for (Watched& to : watched_) flush(to);
  over_.notify_all();
  if (call) call(loss_);
}

void Watch::run() {
  const auto beat_every = std::clamp<std::chrono::milliseconds>(timeout_ / 10, std::chrono::milliseconds(20), kBeatMax);
  Clock::time_point next_beat = Clock::now();
  std::optional<Clock::time_point> last;  // to send what is to be sent
  while (true) {
    std::string reported;
    bool says_goodbye = false;
    {
      const std::lock_guard lock(mutex_);
      reported = reported_;
      says_goodbye = says_goodbye_;
      if (is_stopping_ && !last) last = Clock::now() + kFlushTime;
    }
    if (!reported.empty()) end(reported, nullptr);
    if (says_goodbye) end({}, nullptr);
    const Clock::time_point now = Clock::now();
    if (now >= next_beat) {
      send_all(FrameKind::beat, {}, nullptr);
      next_beat = now + beat_every;
    }
    for (Watched& one : watched_) {
      if (one.is_up) flush(one);
      if (one.is_up) hear(one);
    }
    if (memory_->is_lost()) end(memory_->loss(), nullptr);
    check_silence(now);
    if (last) {
      const auto is_done = [](const Watched& one) {
        return !one.is_up || (one.unsent.empty() && one.neighbour.link.is_sent());
      };
      if (now >= *last || std::all_of(watched_.begin(), watched_.end(), is_done)) return;
    }
    wait_for_news();
  }
}

void Watch::wait_for_news() {
  std::vector<pollfd> waits{{wake_.get(), POLLIN, 0}};
  for (const Watched& one : watched_) {
    if (one.is_up) waits.push_back(one.neighbour.link.waits_for());
  }
  const auto at_most =
      std::clamp<std::chrono::milliseconds>(timeout_ / 20, std::chrono::milliseconds(10), kBeatMax / 4);
  ::poll(waits.data(), waits.size(), static_cast<int>(at_most.count()));
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);
}

void Watch::send_all(FrameKind kind, const std::string& text, const Watched* except) {
  for (Watched& to : watched_) {
    if (&to == except || !to.is_up) continue;
    // Who does not read has enough of them.
    if (kind == FrameKind::beat && !to.unsent.empty()) continue;
    to.unsent.emplace_back(kind, text);
  }
}

void Watch::flush(Watched& to) {
  Link& link = to.neighbour.link;
  while (true) {
    if (link.is_sent() && !to.unsent.empty()) {
      to.sending = std::move(to.unsent.front().second);
      link.send({.kind = to.unsent.front().first, .rank = static_cast<uint64_t>(place_.rank)},
                std::as_bytes(std::span(to.sending)));
      to.unsent.pop_front();
    }
    const auto moved = link.advance();
    if (!moved) return;  // hear() finds that, after what was said last
    if (link.is_sent() ? to.unsent.empty() : !*moved) return;
  }
}

void Watch::hear(Watched& from) {
  Link& link = from.neighbour.link;
  while (from.is_up) {
    if (link.header() && !from.reads_text) {
      from.text.resize(std::min<uint64_t>(link.header()->bytes, kTextBytesMax));
      if (from.text.size() != link.header()->bytes) {
        return is_gone(from, make_error(ErrorCode::unavailable, "", "it says too much"));
      }
      from.reads_text = true;
      link.expect_payload(std::as_writable_bytes(std::span(from.text)));
    } else if (from.reads_text && link.has_payload()) {
      from.reads_text = false;
      from.heard = Clock::now();
      const FrameKind kind = link.header()->kind;
      link.expect_header();
      understand(from, kind, from.text);
    } else {
      const auto moved = link.advance();
      if (!moved) return is_gone(from, moved.error());
      if (!*moved) return;
    }
  }
}

void Watch::understand(Watched& from, FrameKind kind, const std::string& text) {
  switch (kind) {
    case FrameKind::beat:
      return;
    case FrameKind::loss:
      return end(text, &from);
    case FrameKind::goodbye:
      return end({}, &from);
    default:
      return is_gone(from, make_error(ErrorCode::unavailable, "", "it says what nobody expects"));
  }
}

void Watch::is_gone(Watched& from, const Error& error) {
  from.is_up = false;
  const std::string why =
      from.neighbour.child > 0 ? fate(from)
      : Place{from.neighbour.rank, place_.size, place_.nodes}.node() == place_.node()
          ? "its process ended"
          : fmt::format("its link to {} is closed ({})", name_of(place_, place_.rank), error.message);
  end(fmt::format("{} is gone: {}", name_of(place_, from.neighbour.rank), why), &from);
}

/// How a child has ended.
std::string Watch::fate(const Watched& of) {
  for (const Clock::time_point end = Clock::now() + kReapTime; Clock::now() < end;) {
    siginfo_t info = {};
    // It stays to be waited for by end_children().
    if (::waitid(P_PID, static_cast<id_t>(of.neighbour.child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid != 0) {
      return info.si_code == CLD_EXITED ? fmt::format("its process ended with status {}", info.si_status)
                                        : fmt::format("its process was ended by signal {}", info.si_status);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return "its process closed its channel";
}

void Watch::check_silence(Clock::time_point now) {
  const double limit = std::chrono::duration<double>(timeout_).count() * kSilenceShare;
  for (Watched& one : watched_) {
    const double silent = std::chrono::duration<double>(now - one.heard).count();
    if (!one.is_up || silent < limit) continue;
    one.is_up = false;
    end(fmt::format("{} has not been heard of for {:.1f} s", name_of(place_, one.neighbour.rank), silent), &one);
  }
}

/// The thread has ended.
void Watch::end_children() {
  const Clock::time_point end = Clock::now() + std::max<std::chrono::milliseconds>(timeout_ / 4, kReapTime);
  for (const Watched& one : watched_) {
    const pid_t child = one.neighbour.child;
    if (child <= 0) continue;
    while (::waitpid(child, nullptr, WNOHANG) == 0) {
      if (Clock::now() > end) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

}  // namespace keye::comm
