#include "ops/rope.h"

#include "ops/backend.h"
#include "ops/check_view.h"

namespace keye::ops {

void rope_table(Backend& backend, const RopeTable& op) {
  const auto pairs = op.inv_freq.elements();
  const size_t n = op.positions[0].size();
  int64_t total = 0;
  for (const int section : op.sections) {
    KEYE_CHECK(section >= 0, "section of {} pairs", section);
    total += section;
  }
  KEYE_CHECK(total == pairs, "sections sum to {}, expected {}", total, pairs);
  for (const auto& axis : op.positions) KEYE_CHECK(axis.size() == n, "{} positions, expected {}", axis.size(), n);
  check_view("inv_freq", op.inv_freq, {pairs}, {DType::f32});
  check_view("cos", op.cos, {static_cast<int64_t>(n), pairs}, {DType::f32});
  check_view("sin", op.sin, {static_cast<int64_t>(n), pairs}, {DType::f32});
  backend.do_rope_table(op);
}

}  // namespace keye::ops
