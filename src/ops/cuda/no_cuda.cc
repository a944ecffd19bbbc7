#include "ops/backend.h"

namespace keye::ops {

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions&) {
  return make_error(ErrorCode::unsupported, "CUDA",
                    "this program was built without it; configure with -DKEYE_CUDA=ON where the CUDA toolkit is");
}

}  // namespace keye::ops
