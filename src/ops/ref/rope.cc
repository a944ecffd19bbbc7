#include <cmath>

#include "ops/ref/ref_backend.h"

namespace keye::ops {

void RefBackend::do_rope_table(const RopeTable& op) {
  const size_t n = op.positions[0].size();
  const size_t pairs = static_cast<size_t>(op.inv_freq.elements());
  size_t pair = 0;
  for (size_t axis = 0; axis < 3; ++axis) {
    for (const size_t end = pair + static_cast<size_t>(op.sections[axis]); pair < end; ++pair) {
      for (size_t t = 0; t < n; ++t) {
        const float angle = static_cast<float>(op.positions[axis][t]) * op.inv_freq.as<float>()[pair];
        op.cos.as<float>()[t * pairs + pair] = std::cos(angle);
        op.sin.as<float>()[t * pairs + pair] = std::sin(angle);
      }
    }
  }
}

}  // namespace keye::ops
