// Which machine computes.
#pragma once

#include <memory>
#include <string>

#include "ops/backend.h"

namespace keye::engine {

struct DeviceOptions {
  std::string device = "cpu";  // "cpu", "cuda", "cuda:1" (by number), or "auto": a CUDA device if there is one
  int threads = 0;             // of the host; 0: one per processor
  std::string isa;             // of the CPU's kernels; "": the best here
  int graph_rows_max = 256;    // CUDA: steps of so many tokens at most are recorded and replayed; 0: none
};
/// Errors: invalid_argument (another device), unsupported (as ops::make_cpu_backend and make_cuda_backend).
Result<std::unique_ptr<ops::Backend>> open_device(const DeviceOptions& options);

}  // namespace keye::engine
