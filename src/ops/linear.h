// Matrix products with packed weights.
#pragma once

#include <span>

#include "ops/activation.h"
#include "ops/packed_matrix.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// out[t, o] = act(sum_i x[t, i] w[o, i] + bias[o]), or out += that if accumulate.
///   x     [n, inputs]   dtype of w; of a w in f8_e4m3, bf16 or f32
///   bias  [outputs] f32, or empty
///   out   [n, outputs] (silu_mul: outputs / 2), f32 or bf16; f32 if accumulate
/// The sum is f32, over i in order (x in bf16: in pairs), whatever n is and however many threads there are; of a w in
/// f8_e4m3, a sum for each block of inputs, and the sum of those, each times its factor, in order.
struct Linear {
  ConstView x;
  const PackedMatrix& w;
  ConstView bias;
  Activation activation = Activation::none;
  bool accumulate = false;
  View out;
};
void linear(Backend& backend, const Linear& op);

/// One product per group of rows, each with its own matrix: row p of out, for offsets[e] <= p < offsets[e+1], is
/// act(w[e] x[rows[p]]).
///   x        [n, inputs]         w        e matrices of one shape
///   rows     [p] i32 in [0, n), or empty: row p of x is row p of out
///   offsets  [e + 1] i32, offsets[0] == 0, offsets[e] == p
///   out      [p, outputs] (silu_mul: outputs / 2), f32 or bf16
/// A row's result does not depend on which other rows share its group.
struct GroupedLinear {
  ConstView x;
  std::span<const PackedMatrix> w;
  ConstView rows;
  ConstView offsets;
  Activation activation = Activation::none;
  View out;
};
void grouped_linear(Backend& backend, const GroupedLinear& op);

}  // namespace keye::ops
