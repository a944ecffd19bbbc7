// Threads for work that waits or takes long, away from those that must answer at once.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace keye {

/// Runs tasks in the order in which they come, as many at a time as there are threads. The threads yield to all others:
/// what they do must not slow the model down.
class TaskPool {
 public:
  /// `name`: of the threads, at most 15 letters.
  TaskPool(int threads, std::string name);
  /// Waits until all tasks are done: they should know that it is time to end.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  /// Tasks must not throw.
  void post(std::function<void()> task);

 private:
  void work();

  std::string name_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace keye
