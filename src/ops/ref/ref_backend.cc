#include "ops/ref/ref_backend.h"

namespace keye::ops {

std::unique_ptr<Backend> make_ref_backend() { return std::make_unique<RefBackend>(); }

}  // namespace keye::ops
