// Routing of tokens to experts, and the weighted sum of what the experts return.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// Softmax over all e experts, then the k largest (ties: lower index), in descending order; divided by their sum if
/// normalise. Both sums run in order, over the experts and over the ranks.
///   logits  [n, e] f32     experts  [n, k] i32 out     weights  [n, k] f32 out
struct MoeRoute {
  ConstView logits;
  bool normalise;
  View experts;
  View weights;
};
void moe_route(Backend& backend, const MoeRoute& op);

/// Sorts the (token, choice) pairs by expert, those of one expert by token: pair (t, j) becomes row places[t, j].
///   experts  [n, k] i32 in [0, e)         rows     [n k] i32 out: each row's token
///   offsets  [e + 1] i32 out: where each expert's rows begin     places  [n, k] i32 out
struct MoeGroup {
  ConstView experts;
  View rows;
  View offsets;
  View places;
};
void moe_group(Backend& backend, const MoeGroup& op);

/// out[t] += sum_j weights[t, j] y[places[t, j]], added in the order of j.
///   y  [p, c] f32, or bf16 for a backend that does not share the host's memory     places  [n, k] i32     weights  [n,
///   k] f32     out  [n, c] f32
struct MoeCombine {
  ConstView y;
  ConstView places;
  ConstView weights;
  View out;
};
void moe_combine(Backend& backend, const MoeCombine& op);

}  // namespace keye::ops
