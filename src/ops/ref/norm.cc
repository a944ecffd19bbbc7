#include <cmath>
#include <vector>

#include "ops/ref/norm_rows.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// sum_i term(x[i]), in the order that norm_rows.h states.
template <class Term>
float lane_sum(const float* x, int64_t c, Term term) {
  float lanes[kSumLanes] = {};
  for (int64_t i = 0; i < c; ++i) lanes[i % kSumLanes] += term(x[i]);
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

/// Calls row(x, out) for every row of x, through a row of f32 where out is bf16.
template <class Row>
void for_each_row(const ConstView& x, const View& out, Row row) {
  const int64_t n = x.shape[0];
  const int64_t c = x.shape[1];
  std::vector<float> wide(out.dtype == DType::bf16 ? static_cast<size_t>(c) : 0);
  for (int64_t t = 0; t < n; ++t) {
    const float* from = x.as<float>() + t * c;
    if (out.dtype == DType::f32) {
      row(from, out.as<float>() + t * c);
      continue;
    }
    row(from, wide.data());
    for (int64_t i = 0; i < c; ++i) out.as<BFloat16>()[t * c + i] = BFloat16(wide[static_cast<size_t>(i)]);
  }
}

}  // namespace

void rms_norm_row(const float* x, const float* weight, float eps, int64_t c, float* out) {
  const float mean = lane_sum(x, c, [](float value) { return value * value; }) / static_cast<float>(c);
  const float scale = 1.0F / std::sqrt(mean + eps);
  for (int64_t i = 0; i < c; ++i) out[i] = x[i] * scale * weight[i];
}

void layer_norm_row(const float* x, const float* weight, const float* bias, float eps, int64_t c, float* out) {
  const float mean = lane_sum(x, c, [](float value) { return value; }) / static_cast<float>(c);
  const float variance =
      lane_sum(x, c, [mean](float value) { return (value - mean) * (value - mean); }) / static_cast<float>(c);
  const float scale = 1.0F / std::sqrt(variance + eps);
  for (int64_t i = 0; i < c; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

void RefBackend::do_rms_norm(const RmsNorm& op) {
  if (!op.exact.empty()) RefBackend::do_rms_norm({op.x, op.weight, op.eps, op.exact});
  for_each_row(op.x, op.out,
               [&](const float* x, float* out) { rms_norm_row(x, op.weight.as<float>(), op.eps, op.x.shape[1], out); });
}

void RefBackend::do_layer_norm(const LayerNorm& op) {
  for_each_row(op.x, op.out, [&](const float* x, float* out) {
    layer_norm_row(x, op.weight.as<float>(), op.bias.as<float>(), op.eps, op.x.shape[1], out);
  });
}

}  // namespace keye::ops
