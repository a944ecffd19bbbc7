#include "cli/model_flags.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

namespace keye::cli {
namespace {

bool shows_progress() {
  static const bool is_terminal = ::isatty(STDERR_FILENO) == 1;
  return is_terminal;
}

void show(std::string_view what) {
  std::fprintf(stderr, "\r\033[K%.*s", static_cast<int>(what.size()), what.data());
  std::fflush(stderr);
}

}  // namespace

void add_device_flags(CLI::App& app, engine::DeviceOptions& device) {
  app.add_option("--device", device.device, "cpu, cuda, cuda:NUMBER, or auto: a CUDA device if there is one")
      ->capture_default_str();
  app.add_option("--threads", device.threads, "0: one for each processor")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", device.isa,
                 "the CPU's instruction set: avx512_bf16, avx512, avx2 or scalar (default: the best here)");
}

void ModelFlags::add(CLI::App& app) {
  app.add_option("--dtype", dtype_text, "of weights, activations and KV cache")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  add_device_flags(app, device);
}

Result<Path> model_folder(const std::string& given) {
  if (!given.empty()) return Path(given);
  std::error_code ignored;
  const Path program = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  const Path candidates[] = {program / "../../models/keye-nano", program / "../share/keye/models/keye-nano",
                             "models/keye-nano"};
  for (const Path& candidate : candidates) {
    if (std::filesystem::exists(candidate / "config.json", ignored))
      return std::filesystem::canonical(candidate, ignored);
  }
  return make_error(
      ErrorCode::not_found, "models/keye-nano",
      "the model that comes with the program is not beside it; name a checkpoint folder with --model DIR");
}

std::chrono::milliseconds to_ms(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(std::min(seconds, 1e9) * 1000));
}

void clear_progress() {
  if (shows_progress()) show("");
}

model::LoadProgress load_progress() {
  if (!shows_progress()) return {};
  return [](size_t done, size_t total) {
    show(fmt::format("loading {:.0f} %",
                     100.0 * static_cast<double>(done) / static_cast<double>(std::max<size_t>(total, 1))));
    if (done >= total) clear_progress();
  };
}

engine::Progress generate_progress() {
  if (!shows_progress()) return {};
  return [](std::string_view part, int64_t done, int64_t total) {
    show(fmt::format("{} {} of {}", part, done, total));
    if (done >= total) clear_progress();
  };
}

std::function<void(std::string_view)> bench_progress() {
  if (!shows_progress()) return {};
  return [](std::string_view what) { show(fmt::format("measuring: {}", what)); };
}

namespace {

/// Signals are taken by a thread of their own, so that stopping is ordinary code.
class SignalThread {
 public:
  SignalThread() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::thread([this] {
      int signal = 0;
      ::sigwait(&signals_, &signal);
      first_.request_stop();
      ::sigwait(&signals_, &signal);
      second_.request_stop();
      if (exits_on_second_) ::_exit(128 + signal);
      ::sigwait(&signals_, &signal);
      ::_exit(128 + signal);
    }).detach();
  }
  StopTokens tokens() const { return {first_.get_token(), second_.get_token()}; }
  void exit_on_second() { exits_on_second_ = true; }

 private:
  sigset_t signals_ = {};
  std::stop_source first_, second_;
  std::atomic<bool> exits_on_second_{false};
};

SignalThread& signal_thread() {
  static auto* const thread = new SignalThread;  // lives as long as its thread: as the process
  return *thread;
}

}  // namespace

StopTokens stop_tokens() { return signal_thread().tokens(); }

std::stop_token interrupt_token() {
  signal_thread().exit_on_second();
  return signal_thread().tokens().first;
}

void wait_for(const std::stop_token& token) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait(lock, token, [] { return false; });
}

}  // namespace keye::cli
