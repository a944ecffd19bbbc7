#include "media/video_pool.h"

#include <algorithm>
#include <utility>

namespace keye::media {

WorkerPool::WorkerPool(VideoOptions options) : options_(std::move(options)) {
  launcher_ = std::jthread([this](const std::stop_token& stop) { launch(stop); });
}

WorkerPool::~WorkerPool() { close(); }

/// Workers are started here and nowhere else, as they end with the thread that started them: this one lives as long as
/// the pool.
void WorkerPool::launch(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const auto due = [&] {
    const auto ready = static_cast<int>(started_.size());
    return !closed_ && (wanted_ > ready || (in_use_ && ready == 0));
  };
  while (changed_.wait(lock, stop, due)) {
    lock.unlock();
    auto process = WorkerProcess::start(options_);
    lock.lock();
    if (!process) in_use_ = false;  // not again until somebody asks
    started_.push_back(std::move(process));
    changed_.notify_all();
  }
}

Result<std::unique_ptr<WorkerProcess>> WorkerPool::start(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  ++wanted_;
  changed_.notify_all();
  const bool there = changed_.wait(lock, std::move(stop), [&] { return closed_ || !started_.empty(); });
  --wanted_;
  if (closed_) return Error{ErrorCode::unavailable, "the decoder of clips is closed", "video"};
  if (!there) return Error{ErrorCode::cancelled, "cancelled", "video"};
  auto process = std::move(started_.front());
  started_.pop_front();
  in_use_ = process.has_value();
  changed_.notify_all();
  return process;
}

std::unique_ptr<WorkerProcess> WorkerPool::steal() {
  Lease* const oldest = parked_.front();
  parked_.pop_front();
  oldest->parked = false;
  --leased_;
  return std::move(oldest->process);
}

Result<void> WorkerPool::acquire(Lease& lease, std::stop_token stop) {
  std::unique_ptr<WorkerProcess> stolen;  // ends outside the lock
  {
    std::unique_lock lock(mutex_);
    const bool free =
        changed_.wait(lock, stop, [&] { return closed_ || leased_ < options_.workers_max || !parked_.empty(); });
    if (closed_) return Error{ErrorCode::unavailable, "the decoder of clips is closed", "video"};
    if (!free) return Error{ErrorCode::cancelled, "cancelled", "video"};
    if (leased_ >= options_.workers_max) stolen = steal();
    ++leased_;
  }
  stolen.reset();
  auto process = start(std::move(stop));
  if (process) {
    lease.process = std::move(process).value();
    return {};
  }
  const std::scoped_lock lock(mutex_);
  --leased_;
  changed_.notify_all();
  return process.error();
}

void WorkerPool::release(Lease& lease) {
  unpark(lease);
  if (lease.process == nullptr) return;
  lease.process.reset();
  const std::scoped_lock lock(mutex_);
  --leased_;
  changed_.notify_all();
}

void WorkerPool::park(Lease& lease) {
  std::unique_ptr<WorkerProcess> ended;
  const std::scoped_lock lock(mutex_);
  if (closed_) {
    ended = std::move(lease.process);
    --leased_;
    return;
  }
  lease.parked = true;
  parked_.push_back(&lease);
  changed_.notify_all();
}

bool WorkerPool::unpark(Lease& lease) {
  const std::scoped_lock lock(mutex_);
  if (lease.parked) parked_.remove(&lease);
  lease.parked = false;
  return lease.process != nullptr;
}

void WorkerPool::close() {
  std::list<std::unique_ptr<WorkerProcess>> ended;
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  while (!parked_.empty()) ended.push_back(steal());
  started_.clear();
  changed_.notify_all();
}

}  // namespace keye::media
