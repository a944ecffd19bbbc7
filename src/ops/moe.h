// Routing of tokens to experts, and the weighted sum of what the experts return.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// How a token's logits become its choice of experts.
///   softmax  Qwen3: over all experts; the k largest
///   sigmoid  DeepSeek-V3: of each logit alone. To choose, `bias` is added to it. The experts stand in `groups` groups
///   of
///            equal size; a group's rank is the sum of its two best (of its only one), and the k largest of the
///            `groups_kept` best groups are chosen. Their weights are without the bias.
enum class RouterScore : uint8_t { softmax, sigmoid };

/// The k chosen experts (ties: lower index) in descending order of what they were chosen by, and their weights: divided
/// by their sum if normalise, then multiplied by `factor`. Sums run in order, over the experts and over the ranks.
///   logits  [n, e] f32     bias  [e] f32 (sigmoid), or empty     experts  [n, k] i32 out     weights  [n, k] f32 out
struct MoeRoute {
  ConstView logits;
  bool normalise;
  View experts;
  View weights;
  RouterScore score = RouterScore::softmax;
  ConstView bias = {};
  int groups = 1;
  int groups_kept = 1;
  float factor = 1;
};
void moe_route(Backend& backend, const MoeRoute& op);

/// Sorts the (token, choice) pairs by expert, those of one expert by token: pair (t, j) becomes row places[t, j]. Of
/// experts that are elsewhere, those outside [first, first + e), there are no rows, and places are -1.
///   experts  [n, k] i32 in [0, all)       rows     [n k] i32 out: each row's token
///   offsets  [e + 1] i32 out: where each expert's rows begin     places  [n, k] i32 out
struct MoeGroup {
  ConstView experts;
  View rows;
  View offsets;
  View places;
  int first = 0;
  int all = 0;  // experts, here and elsewhere; 0: all are here
};
void moe_group(Backend& backend, const MoeGroup& op);

/// out[t] += sum_j weights[t, j] y[places[t, j]], added in the order of j, without those whose place is -1.
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
