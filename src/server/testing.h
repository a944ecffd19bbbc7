// For tests: exchanges without a connection.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "server/exchange.h"

namespace keye::server {

/// Notes what it is told. The thread that calls run_until() is the server's.
class FakeExchange final : public Exchange {
 public:
  explicit FakeExchange(HttpRequest request = {}) : request_(std::move(request)) {}

  const HttpRequest& request() const override { return request_; }
  const std::string& id() const override { return id_; }
  std::string take_body() override { return std::move(request_.body); }
  void post(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    wake_.notify_one();
  }
  void body_done() override {}
  void respond(HttpResponse response) override { responses.push_back(std::move(response)); }
  void begin_stream(int status, HttpHeaders headers, std::string) override {
    responses.push_back({.status = status, .headers = std::move(headers), .body = {}});
  }
  void write(std::string text) override { stream += text; }
  void end_stream() override { stream_ended = true; }
  size_t backlog() const override { return backlog_bytes; }
  bool closed() const override { return false; }
  void on_close(std::function<void()> callback) override { close = std::move(callback); }
  void on_drain(std::function<void()> callback) override { drain = std::move(callback); }

  /// Runs what is posted until the condition holds. False: it did not within a minute.
  bool run_until(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!condition()) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        if (!wake_.wait_until(lock, deadline, [this] { return !tasks_.empty(); })) return false;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
    return true;
  }

  /// Forgets what is posted and not yet run: such a task may hold the reply that holds this exchange.
  void drop_posted() {
    const std::lock_guard lock(mutex_);
    tasks_.clear();
  }

  std::vector<HttpResponse> responses;  // a stream's has no body
  std::string stream;
  bool stream_ended = false;
  size_t backlog_bytes = 0;
  std::function<void()> close, drain;

 private:
  HttpRequest request_;
  std::string id_ = "req-test";
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
};

/// The value of a header, or "".
inline std::string header_of(const HttpHeaders& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

}  // namespace keye::server
