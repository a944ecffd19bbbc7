#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "media/video.h"
#include "media/video_channel.h"
#include "media/video_pool.h"
#include "media/video_report.h"

namespace keye::media {
namespace {

/// Memory that the worker gets a descriptor of. Its size is sealed: who has the descriptor cannot take the memory away.
class SharedMemory {
 public:
  static Result<SharedMemory> make(size_t bytes) {
    SharedMemory memory;
    memory.file_ = Descriptor(::memfd_create("keye-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (!memory.file_ || ::ftruncate(memory.file_.get(), static_cast<off_t>(bytes)) != 0 ||
        ::fcntl(memory.file_.get(), F_ADD_SEALS, kSeals) != 0) {
      return system_error();
    }
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.file_.get(), 0);
    if (data == MAP_FAILED) return system_error();
    memory.data_ = static_cast<uint8_t*>(data);
    memory.bytes_ = bytes;
    return memory;
  }

  SharedMemory(SharedMemory&& other) noexcept
      : file_(std::move(other.file_)), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }

  int descriptor() const { return file_.get(); }
  uint8_t* data() const { return data_; }

 private:
  SharedMemory() = default;
  static Error system_error() {
    return make_error(ErrorCode::io, "video", "cannot share memory with a worker: {}", std::strerror(errno));
  }

  Descriptor file_;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Frames that the worker may be ahead: a few, and not much memory where they are large.
int64_t slots_for(int64_t slot_bytes) { return std::clamp<int64_t>((int64_t{32} << 20) / slot_bytes, 2, 4); }

/// Turns a stop into something that poll() sees, as long as this lives.
class Stopping {
 public:
  static Result<std::unique_ptr<Stopping>> make(std::stop_token stop) {
    KEYE_TRY(StopSignal signal, StopSignal::make());
    return std::unique_ptr<Stopping>(new Stopping(std::move(signal), std::move(stop)));
  }
  int descriptor() const { return signal_.descriptor(); }

 private:
  struct Raise {
    const StopSignal* signal;
    void operator()() const { signal->raise(); }
  };
  Stopping(StopSignal signal, std::stop_token stop)
      : signal_(std::move(signal)), callback_(std::move(stop), Raise{&signal_}) {}

  StopSignal signal_;
  std::stop_callback<Raise> callback_;
};

class EncodedClip final : public FrameSource {
 public:
  EncodedClip(std::shared_ptr<WorkerPool> pool, Clip clip) : pool_(std::move(pool)), clip_(std::move(clip)) {}
  ~EncodedClip() override { pool_->release(lease_); }

  /// The first time finds out what info() says; later it must be the same.
  Result<void> open(std::stop_token stop);
  void park() { pool_->park(lease_); }
  const VideoInfo& info() const override { return *info_; }
  Result<void> read(std::span<const int64_t> indices, const TakeFrame& take, std::stop_token stop) override;

 private:
  const VideoLimits& limits() const { return pool_->options().limits; }
  Result<VideoInfo> open_in_worker(Patience& patience);
  Result<void> read_in_worker(std::span<const int64_t> indices, const TakeFrame& take, std::stop_token stop);
  Result<void> take_frames(std::span<const int64_t> indices, const std::vector<int64_t>& distinct,
                           const SharedMemory& ring, const TakeFrame& take, Patience& patience);
  Image copy_frame(const SharedMemory& ring, int64_t place) const;
  /// The worker is of no use after a failure.
  Result<void> settled(Result<void> outcome);

  std::shared_ptr<WorkerPool> pool_;
  Clip clip_;
  std::optional<VideoInfo> info_;
  WorkerPool::Lease lease_;
};

Error lies() { return Error{ErrorCode::corrupt_data, "the clip's decoder reports what cannot be", "video"}; }

Result<void> EncodedClip::settled(Result<void> outcome) {
  if (outcome) {
    pool_->park(lease_);
  } else {
    pool_->release(lease_);
  }
  return outcome;
}

Result<VideoInfo> EncodedClip::open_in_worker(Patience& patience) {
  KEYE_TRY_VOID(lease_.process->await_ready(pool_->options(), patience));
  WorkerRequest request;
  request.kind = WorkerRequest::Kind::open;
  request.bytes = clip_.bytes();
  request.pixels_max = limits().pixels_max;
  request.frames_max = limits().frames_max;
  const int descriptors[] = {clip_.descriptor()};
  KEYE_TRY_VOID(lease_.process->send(request, descriptors));
  KEYE_TRY(const WorkerReport report, lease_.process->receive(limits(), patience));
  if (report.kind != WorkerReport::Kind::opened) return lies();
  return check_opened(report, limits());
}

Result<void> EncodedClip::open(std::stop_token stop) {
  KEYE_TRY_VOID(pool_->acquire(lease_, stop));
  KEYE_TRY(const auto stopping, Stopping::make(std::move(stop)));
  Patience patience{.stop = stopping->descriptor(), .seconds = limits().seconds_max};
  auto info = open_in_worker(patience);
  if (!info) return settled(info.error());
  if (info_ && (info->frames != info_->frames || info->width != info_->width || info->height != info_->height)) {
    return settled(Error{ErrorCode::corrupt_data, "the clip changed while it was being read", "video"});
  }
  info_ = std::move(info).value();
  return {};
}

Image EncodedClip::copy_frame(const SharedMemory& ring, int64_t place) const {
  const int64_t slot_bytes = slot_bytes_for(info_->width, info_->height);
  const uint8_t* from = ring.data() + place % slots_for(slot_bytes) * slot_bytes;
  Image frame;
  frame.height = info_->height;
  frame.width = info_->width;
  frame.rgb.assign(from, from + static_cast<size_t>(info_->height) * frame.row_bytes());
  return frame;
}

Result<void> EncodedClip::take_frames(std::span<const int64_t> indices, const std::vector<int64_t>& distinct,
                                      const SharedMemory& ring, const TakeFrame& take, Patience& patience) {
  WorkerRequest release;
  release.kind = WorkerRequest::Kind::release;
  size_t at = 0;
  for (size_t place = 0; place < distinct.size(); ++place) {
    KEYE_TRY(const WorkerReport report, lease_.process->receive(limits(), patience));
    if (report.kind != WorkerReport::Kind::frame || report.place != static_cast<int64_t>(place)) return lies();
    Image frame = copy_frame(ring, report.place);
    KEYE_TRY_VOID(lease_.process->send(release));
    for (; at + 1 < indices.size() && indices[at + 1] == distinct[place]; ++at) {
      KEYE_TRY_VOID(take(at, Image(frame)));
    }
    KEYE_TRY_VOID(take(at++, std::move(frame)));
  }
  KEYE_TRY(const WorkerReport report, lease_.process->receive(limits(), patience));
  const auto count = static_cast<int64_t>(distinct.size());
  if (report.kind != WorkerReport::Kind::done || report.missing < 0 || report.missing > count) return lies();
  if (report.missing * 2 > count) {
    return make_error(ErrorCode::corrupt_data, "video", "{} of the {} frames that are needed cannot be decoded",
                      report.missing, count);
  }
  return {};
}

Result<void> EncodedClip::read_in_worker(std::span<const int64_t> indices, const TakeFrame& take,
                                         std::stop_token stop) {
  std::vector<int64_t> distinct(indices.begin(), indices.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  const int64_t slot_bytes = slot_bytes_for(info_->width, info_->height);
  const int64_t slots = slots_for(slot_bytes);
  KEYE_TRY(const SharedMemory ring, SharedMemory::make(static_cast<size_t>(slots * slot_bytes)));
  KEYE_TRY(const SharedMemory list, SharedMemory::make(distinct.size() * sizeof(int64_t)));
  std::memcpy(list.data(), distinct.data(), distinct.size() * sizeof(int64_t));
  WorkerRequest request;
  request.kind = WorkerRequest::Kind::read;
  request.slots = static_cast<int32_t>(slots);
  request.slot_bytes = slot_bytes;
  request.count = static_cast<int64_t>(distinct.size());
  const int descriptors[] = {ring.descriptor(), list.descriptor()};
  KEYE_TRY_VOID(lease_.process->send(request, descriptors));
  KEYE_TRY(const auto stopping, Stopping::make(std::move(stop)));
  Patience patience{.stop = stopping->descriptor(), .seconds = limits().seconds_max};
  return take_frames(indices, distinct, ring, take, patience);
}

Result<void> EncodedClip::read(std::span<const int64_t> indices, const TakeFrame& take, std::stop_token stop) {
  if (indices.empty()) return {};
  KEYE_CHECK(std::is_sorted(indices.begin(), indices.end()), "indices must ascend");
  KEYE_CHECK(indices.front() >= 0 && indices.back() < info_->frames, "frames {} to {} of {}", indices.front(),
             indices.back(), info_->frames);
  if (!pool_->unpark(lease_)) KEYE_TRY_VOID(open(stop));
  return settled(read_in_worker(indices, take, std::move(stop)));
}

}  // namespace

VideoDecoder::VideoDecoder(VideoOptions options) {
  KEYE_CHECK(options.workers_max >= 1, "{} workers", options.workers_max);
  pool_ = std::make_shared<WorkerPool>(std::move(options));
}

VideoDecoder::~VideoDecoder() {
  if (pool_ != nullptr) pool_->close();
}

Result<std::unique_ptr<FrameSource>> VideoDecoder::open(Clip clip, std::stop_token stop) {
  const int64_t bytes_max = pool_->options().limits.bytes_max;
  if (clip.bytes() > bytes_max) {
    return make_error(ErrorCode::too_large, "video", "{} bytes, over the limit of {}", clip.bytes(), bytes_max);
  }
  auto source = std::make_unique<EncodedClip>(pool_, std::move(clip));
  KEYE_TRY_VOID(source->open(std::move(stop)));
  source->park();
  return std::unique_ptr<FrameSource>(std::move(source));
}

}  // namespace keye::media
