// Open files by descriptor, for who reads them in another way than whole.
#pragma once

#include <cstdint>
#include <utility>

#include "base/file.h"

namespace keye {

/// An owned file descriptor, or none.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    Descriptor moved(std::move(other));
    std::swap(fd_, moved.fd_);
    return *this;
  }
  ~Descriptor();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct OpenFile {
  Descriptor descriptor;
  int64_t bytes = 0;  // when it was opened
};

/// A regular file, for reading. Errors: not_found, io.
Result<OpenFile> open_file(const Path& path);

/// The same inside `folder`; as read_file_below() finds it.
Result<OpenFile> open_file_below(const Path& folder, const Path& relative);

}  // namespace keye
