// A worker process as its parent holds it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>

#include "media/video.h"
#include "media/video_channel.h"
#include "media/video_protocol.h"

namespace keye::media {

/// Serves one clip and then ends: whatever a clip does to its decoder, no other clip meets it.
class WorkerProcess {
 public:
  /// Starts it and tells it its limits; does not wait for it. The process is killed when the calling thread ends.
  /// Errors: io.
  static Result<std::unique_ptr<WorkerProcess>> start(const VideoOptions& options);
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;
  /// Kills it.
  ~WorkerProcess();

  pid_t id() const { return id_; }

  /// Waits until it is sandboxed. Errors: unsupported, unavailable (it died), deadline, cancelled.
  Result<void> await_ready(const VideoOptions& options, Patience& patience);
  Result<void> send(const WorkerRequest& request, std::span<const int> descriptors = {}) const {
    return channel_.send(request, descriptors);
  }
  /// The next report; one of kind `failed` as its error. Errors: those of failure_error and death_error, deadline,
  /// cancelled.
  Result<WorkerReport> receive(const VideoLimits& limits, Patience& patience);

 private:
  WorkerProcess(pid_t id, Channel channel) : id_(id), channel_(std::move(channel)) {}
  Error how_it_died();

  pid_t id_;
  Channel channel_;
  bool reaped_ = false;
};

}  // namespace keye::media
