#include "media/video_worker.h"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "media/ffmpeg_clip.h"
#include "media/sandbox.h"
#include "media/video_channel.h"

namespace keye::media {
namespace {

/// A mapping of a descriptor; unmapped at the end.
class Shared {
 public:
  Shared(int fd, size_t bytes, int protection) : bytes_(bytes) {
    void* address = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
    if (address != MAP_FAILED) data_ = static_cast<std::byte*>(address);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_;
};

class Worker {
 public:
  explicit Worker(Channel channel) : channel_(std::move(channel)) {}
  int run();

 private:
  bool set_up(const WorkerRequest& request);
  bool open(const WorkerRequest& request, const Descriptor& clip);
  bool read(const WorkerRequest& request, const Descriptor& ring, const Descriptor& indices);
  bool fail(const VideoProblem& problem) const;

  Channel channel_;
  int threads_ = 1;
  Descriptor file_;
  std::optional<FfmpegClip> clip_;
};

/// Puts frames into the ring, and waits for the parent to take them when it is full.
class RingSink final : public FrameSink {
 public:
  RingSink(const Channel& channel, const WorkerRequest& request, std::byte* ring)
      : channel_(channel), slots_(request.slots), slot_bytes_(request.slot_bytes), ring_(ring) {}

  uint8_t* next() override {
    while (used_ == slots_) {
      WorkerRequest request;
      std::array<Descriptor, kDescriptorsMax> none;
      if (!channel_.receive(request, none) || request.kind != WorkerRequest::Kind::release) return nullptr;
      --used_;
    }
    return reinterpret_cast<uint8_t*>(ring_) + (written_ % slots_) * slot_bytes_;
  }

  bool filled(int64_t place) override {
    ++used_;
    ++written_;
    WorkerReport report;
    report.kind = WorkerReport::Kind::frame;
    report.place = place;
    return open_ = channel_.send(report).has_value();
  }

  /// The parent has taken all of them.
  bool finish() {
    while (open_ && used_ > 0) {
      WorkerRequest request;
      std::array<Descriptor, kDescriptorsMax> none;
      open_ = channel_.receive(request, none) && request.kind == WorkerRequest::Kind::release;
      --used_;
    }
    return open_;
  }

 private:
  const Channel& channel_;
  int64_t slots_;
  int64_t slot_bytes_;
  std::byte* ring_;
  int64_t used_ = 0;
  int64_t written_ = 0;
  bool open_ = true;
};

bool Worker::fail(const VideoProblem& problem) const {
  WorkerReport report;
  report.kind = WorkerReport::Kind::failed;
  report.failure = problem.reason;
  report.a = problem.a;
  report.b = problem.b;
  problem.name.copy(report.name, sizeof(report.name) - 1);
  return channel_.send(report).has_value();
}

/// Everything that the sandbox forbids happens here, before there is a clip.
bool Worker::set_up(const WorkerRequest& request) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != static_cast<pid_t>(request.parent)) return false;  // it is gone already
  ::prctl(PR_SET_NAME, "keye-video");
  ::mallopt(M_ARENA_MAX, 2);  // each takes 64 MiB of address space
  threads_ = request.threads;
  const std::string missing = load_ffmpeg();
  if (!missing.empty()) return fail({VideoFailure::no_library, 0, 0, missing});
  int failure = limit_process({.memory_max = request.memory_max, .cpu_seconds = request.cpu_seconds});
  if (failure == 0) failure = enter_sandbox(channel_.descriptor());
  if (failure != 0 && request.optional == 0) return fail({VideoFailure::no_sandbox, failure, 0, {}});
  WorkerReport report;
  report.kind = WorkerReport::Kind::ready;
  report.sandboxed = failure == 0;
  return channel_.send(report).has_value();
}

bool Worker::open(const WorkerRequest& request, const Descriptor& clip) {
  if (!clip) return fail({VideoFailure::protocol, 0, 0, {}});
  clip_.emplace(threads_);
  const VideoProblem failed = clip_->open({.descriptor = clip.get(),
                                           .bytes = request.bytes,
                                           .pixels_max = request.pixels_max,
                                           .frames_max = request.frames_max});
  if (failed) return fail(failed);
  const ClipFacts& facts = clip_->facts();
  WorkerReport report;
  report.kind = WorkerReport::Kind::opened;
  report.width = facts.width;
  report.height = facts.height;
  report.container = clip_->input().container();
  report.codec = clip_->input().codec();
  report.frames = facts.frames;
  report.fps = facts.fps;
  report.declared_fps = facts.declared_fps;
  report.duration_s = facts.duration_s;
  return channel_.send(report).has_value();
}

bool Worker::read(const WorkerRequest& request, const Descriptor& ring, const Descriptor& indices) {
  const auto count = static_cast<size_t>(request.count);
  const Shared frames(ring.get(), static_cast<size_t>(request.slots * request.slot_bytes), PROT_READ | PROT_WRITE);
  const Shared list(indices.get(), count * sizeof(int64_t), PROT_READ);
  if (frames.data() == nullptr || list.data() == nullptr) return fail({VideoFailure::out_of_memory, 0, 0, {}});
  RingSink sink(channel_, request, frames.data());
  WorkerReport report;
  report.kind = WorkerReport::Kind::done;
  const std::span wanted(reinterpret_cast<const int64_t*>(list.data()), count);
  if (const VideoProblem failed = clip_->read(wanted, sink, report.missing)) return fail(failed);
  return sink.finish() && channel_.send(report).has_value();
}

int Worker::run() {
  WorkerRequest request;
  std::array<Descriptor, kDescriptorsMax> sent;
  if (!channel_.receive(request, sent) || request.kind != WorkerRequest::Kind::setup || !set_up(request)) return 1;
  while (channel_.receive(request, sent)) {
    bool going = false;
    if (request.kind == WorkerRequest::Kind::open && !clip_) {
      file_ = std::move(sent[0]);
      going = open(request, file_);
    } else if (request.kind == WorkerRequest::Kind::read && clip_) {
      going = read(request, sent[0], sent[1]);
    } else {
      fail({VideoFailure::protocol, 0, 0, {}});
    }
    if (!going) return 1;
  }
  return 0;
}

}  // namespace

void run_video_worker() {
  Worker worker{Channel(Descriptor(kWorkerSocket))};
  // No destructors of libraries: the sandbox does not know what they want.
  ::_exit(worker.run());
}

}  // namespace keye::media
