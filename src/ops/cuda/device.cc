#include "ops/cuda/device.h"

#include <cuda_runtime.h>

#include <mutex>
#include <unordered_map>

#include "base/check.h"

namespace keye::ops::cuda {
namespace {

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }

class RecordedEvent final : public Event {
 public:
  RecordedEvent() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  ~RecordedEvent() override { cudaEventDestroy(event_); }
  void record(Stream stream) override { check_cuda(cudaEventRecord(event_, native(stream)), "an event"); }
  void wait() override { check_cuda(cudaEventSynchronize(event_), "a kernel"); }

 private:
  cudaEvent_t event_ = nullptr;
};

class RecordedGraph final : public Graph {
 public:
  explicit RecordedGraph(cudaGraphExec_t graph) : graph_(graph) {}
  ~RecordedGraph() override { cudaGraphExecDestroy(graph_); }
  void launch(Stream stream) override { check_cuda(cudaGraphLaunch(graph_, native(stream)), "graph launch"); }

 private:
  cudaGraphExec_t graph_;
};

}  // namespace

void check_cuda(int status, const char* what) {
  KEYE_CHECK(status == cudaSuccess, "CUDA: {}: {}", what, cudaGetErrorString(static_cast<cudaError_t>(status)));
}

Result<DeviceInfo> open_device(int number) {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess) {
    return make_error(ErrorCode::unsupported, "CUDA", "no usable driver: {}", cudaGetErrorString(counted));
  }
  if (number < 0 || number >= count) {
    return make_error(ErrorCode::unsupported, "CUDA", "device {} of {}", number, count);
  }
  cudaDeviceProp properties{};
  check_cuda(cudaSetDevice(number), "cudaSetDevice");
  check_cuda(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties");
  if (properties.major < 8) {
    return make_error(ErrorCode::unsupported, "CUDA", "{} has compute capability {}.{}; 8.0 is the least",
                      properties.name, properties.major, properties.minor);
  }
  DeviceInfo info{properties.name,
                  properties.major,
                  properties.minor,
                  properties.multiProcessorCount,
                  0,
                  0,
                  static_cast<size_t>(properties.l2CacheSize)};
  check_cuda(cudaMemGetInfo(&info.free_bytes, &info.memory_bytes), "cudaMemGetInfo");
  return info;
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}
void free_stream(Stream stream) { cudaStreamDestroy(native(stream)); }
void synchronize(Stream stream) { check_cuda(cudaStreamSynchronize(native(stream)), "a kernel"); }

void* device_allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // which would stay otherwise
    return nullptr;
  }
  check_cuda(status, "cudaMalloc");
  return data;
}
void device_free(void* data) { cudaFree(data); }
size_t device_free_bytes() {
  size_t free = 0;
  size_t total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}
void* pinned_allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(status, "cudaHostAlloc");
  return data;
}
void pinned_free(void* data) { cudaFreeHost(data); }

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream)), "copy to the device");
}
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)), "copy to the host");
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)), "copy on the device");
}
void copy_2d_on_device(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes, size_t rows,
                       Stream stream) {
  check_cuda(
      cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDeviceToDevice, native(stream)),
      "copy on the device");
}
std::unique_ptr<Event> make_event() { return std::make_unique<RecordedEvent>(); }
void clear_on_device(void* data, size_t bytes, Stream stream) {
  check_cuda(cudaMemsetAsync(data, 0, bytes, native(stream)), "clearing");
}

std::unique_ptr<Graph> record_graph(Stream stream, const std::function<void()>& body) {
  check_cuda(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "graph capture");
  body();
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(native(stream), &graph), "graph capture");
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph, 0), "graph instantiation");
  cudaGraphDestroy(graph);
  return std::make_unique<RecordedGraph>(executable);
}

void allow_shared_bytes(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::unordered_map<const void*, size_t> allowed;
  const std::lock_guard lock(mutex);
  size_t& now = allowed[kernel];
  if (bytes <= now) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "shared memory");
  now = bytes;
}

}  // namespace keye::ops::cuda
