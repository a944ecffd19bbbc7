// The CUDA runtime as the rest of this room sees it; the emulator has the same functions over the CPU's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "ops/cuda/stream.h"

namespace keye::ops::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int processors = 0;        // streaming multiprocessors
  size_t memory_bytes = 0, free_bytes = 0;
  size_t l2_bytes = 0;
};
/// Errors: unsupported (no driver, no device with this number, compute capability below 8.0).
Result<DeviceInfo> open_device(int number);

Stream make_stream();
void free_stream(Stream stream);
void synchronize(Stream stream);

/// Null where the device has no memory left.
void* device_allocate(size_t bytes);
void device_free(void* data);
size_t device_free_bytes();
/// Page-locked memory of the host, which the device can read, too. Null where there is none.
void* pinned_allocate(size_t bytes);
void pinned_free(void* data);

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
/// `rows` rows of row_bytes, so far apart.
void copy_2d_on_device(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes, size_t rows,
                       Stream stream);
void clear_on_device(void* data, size_t bytes, Stream stream);

/// A point in a stream.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record(Stream stream) = 0;
  /// Until the stream has come to where it was recorded last, if it ever was.
  virtual void wait() = 0;
};
std::unique_ptr<Event> make_event();

/// What was launched between two points, to be launched again at once. The emulator has none.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch(Stream stream) = 0;
};
/// Records what `body` launches on the stream, without running it; null where recording is not possible.
std::unique_ptr<Graph> record_graph(Stream stream, const std::function<void()>& body);

}  // namespace keye::ops::cuda
