#include "engine/device.h"

#include <charconv>

namespace keye::engine {

Result<std::unique_ptr<ops::Backend>> open_device(const DeviceOptions& options) {
  const std::string& name = options.device;
  ops::CudaOptions cuda{.threads = options.threads, .graph_rows_max = options.graph_rows_max};
  if (name == "auto") {
    auto backend = ops::make_cuda_backend(cuda);
    if (backend) return backend;
  }
  if (name == "auto" || name == "cpu") return ops::make_cpu_backend({.threads = options.threads, .isa = options.isa});
  if (name == "cuda") return ops::make_cuda_backend(cuda);
  if (name.starts_with("cuda:")) {
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 5, end, cuda.device);
    if (error == std::errc() && stop == end) return ops::make_cuda_backend(cuda);
  }
  return make_error(ErrorCode::invalid_argument, "device", "expected auto, cpu, cuda or cuda:NUMBER, got \"{}\"", name);
}

}  // namespace keye::engine
