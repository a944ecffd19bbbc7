// Normalisations over the last dimension. Statistics and weights are f32; a row's sums go into 64 lanes
// (ref/norm_rows.h), in an order that depends on c alone.
#pragma once

#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// out[t, i] = x[t, i] / sqrt(mean_i(x[t, i]^2) + eps) * weight[i]
///   x [n, c] f32     weight [c] f32     out [n, c] f32 or bf16     exact [n, c] f32: the same, or empty
struct RmsNorm {
  ConstView x;
  ConstView weight;
  float eps;
  View out;
  View exact = {};
};
void rms_norm(Backend& backend, const RmsNorm& op);

/// out[t, i] = (x[t, i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]
///   x [n, c] f32     weight, bias [c] f32     out [n, c] f32 or bf16
struct LayerNorm {
  ConstView x;
  ConstView weight;
  ConstView bias;
  float eps;
  View out;
};
void layer_norm(Backend& backend, const LayerNorm& op);

}  // namespace keye::ops
