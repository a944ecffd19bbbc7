#include "ops/cpu/cpu_backend.h"

#include <fmt/format.h>

namespace keye::ops {

CpuBackend::CpuBackend(int threads, Isa isa)
    : isa_(isa), pool_(threads), name_(fmt::format("cpu/{}x{}", isa_name(isa), threads)) {
  scratch_.resize(static_cast<size_t>(threads));
}

void* CpuBackend::scratch(int worker, size_t bytes) {
  Buffer& buffer = scratch_[static_cast<size_t>(worker)];
  if (buffer.size() < bytes) buffer = Buffer(bytes);
  return buffer.data();
}

void* CpuBackend::shared_scratch(size_t bytes) {
  if (shared_scratch_.size() < bytes) shared_scratch_ = Buffer(bytes);
  return shared_scratch_.data();
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > 1024) {
    return make_error(ErrorCode::invalid_argument, "threads", "{} is not in [0, 1024]", options.threads);
  }
  KEYE_TRY(const Isa isa, isa_from_name(options.isa));
  const int threads = options.threads == 0 ? ThreadPool::processors() : options.threads;
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(threads, isa));
}

}  // namespace keye::ops
