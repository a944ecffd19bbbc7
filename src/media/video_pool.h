// Which clips have a worker process, and the thread that starts them.
#pragma once

#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

#include "media/video.h"
#include "media/video_process.h"

namespace keye::media {

/// At most options.workers_max clips have a process at a time; one more process is started ahead for the next clip.
class WorkerPool {
 public:
  explicit WorkerPool(VideoOptions options);
  /// Nobody waits in acquire() any more.
  ~WorkerPool();

  const VideoOptions& options() const { return options_; }

  /// One clip's right to a process. Its `process` may be taken away while it is parked.
  struct Lease {
    std::unique_ptr<WorkerProcess> process;
    bool parked = false;
  };

  /// A new process for `lease`, which has none; waits until one is free. Errors: cancelled, unavailable (closed), io.
  Result<void> acquire(Lease& lease, std::stop_token stop);
  /// Ends the lease's process, if it has one.
  void release(Lease& lease);
  /// The clip stays open, but others may take its process.
  void park(Lease& lease);
  /// True: the lease still has its process.
  bool unpark(Lease& lease);

  /// Takes the processes of all who are not using them; acquire() fails from now on.
  void close();

 private:
  Result<std::unique_ptr<WorkerProcess>> start(std::stop_token stop);
  void launch(const std::stop_token& stop);
  std::unique_ptr<WorkerProcess> steal();

  const VideoOptions options_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool closed_ = false;
  int leased_ = 0;            // processes that clips have, or are about to get
  std::list<Lease*> parked_;  // oldest first
  int wanted_ = 0;            // processes that acquire() waits for
  std::list<Result<std::unique_ptr<WorkerProcess>>> started_;
  bool in_use_ = false;    // somebody decodes clips here: start one ahead
  std::jthread launcher_;  // last: uses the above
};

}  // namespace keye::media
