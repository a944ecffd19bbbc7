#include "engine/interruptible.h"

#include <algorithm>

namespace keye::engine {

void Interruptible::abandon(RequestId request) {
  const std::lock_guard lock(mutex_);
  abandoned_.insert(request);
  if (std::find(working_for_.begin(), working_for_.end(), request) != working_for_.end()) backend_.interrupt();
}

void Interruptible::forget(RequestId request) {
  const std::lock_guard lock(mutex_);
  abandoned_.erase(request);
}

void Interruptible::abandon_all() {
  const std::lock_guard lock(mutex_);
  all_abandoned_ = true;
  if (!working_for_.empty()) backend_.interrupt();
}

bool Interruptible::begin(std::span<const RequestId> requests) {
  const std::lock_guard lock(mutex_);
  if (all_abandoned_) return false;
  if (std::any_of(requests.begin(), requests.end(), [this](RequestId id) { return abandoned_.contains(id); })) {
    return false;
  }
  if (!must_finish_) working_for_.assign(requests.begin(), requests.end());
  return true;
}

void Interruptible::end(bool is_done) {
  const std::lock_guard lock(mutex_);
  must_finish_ = !is_done && std::any_of(working_for_.begin(), working_for_.end(),
                                         [this](RequestId id) { return !abandoned_.contains(id); });
  working_for_.clear();
  backend_.resume();
}

}  // namespace keye::engine
