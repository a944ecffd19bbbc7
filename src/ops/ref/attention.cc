#include "ops/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/quantize_row.h"
#include "ops/ref/elements.h"
#include "ops/ref/norm_rows.h"
#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

float rounded(DType dtype, float value) { return dtype == DType::f32 ? value : static_cast<float>(BFloat16(value)); }

/// Where channel c of the token in `slot` lies, in elements from the start of its head's block.
int64_t plane_index(const KvPlane& plane, int slot, int64_t c) {
  const int64_t d = plane.dim;
  switch (plane.layout) {
    case PlaneLayout::rows:
      return slot * int64_t{plane.stride != 0 ? plane.stride : plane.dim} + c;
    case PlaneLayout::keys:
      return plane.dtype == DType::f32 ? c * kPageTokens + slot : ((c / 2) * kPageTokens + slot) * 2 + c % 2;
    case PlaneLayout::values:
      break;
  }
  return plane.dtype == DType::f32 ? slot * d + c : ((slot / 2) * d + c) * 2 + slot % 2;
}

/// Channel c of the token in `slot` of a head's block.
float element(const KvPlane& plane, std::byte* block, int slot, int64_t c) {
  const int64_t i = plane_index(plane, slot, c);
  if (plane.dtype == DType::i8) return reinterpret_cast<const int8_t*>(block)[i] * plane.scales(block)[slot];
  if (plane.dtype == DType::f8_e4m3) {
    return f8_to_float(reinterpret_cast<const uint8_t*>(block)[i]) * plane.scales(block)[slot];
  }
  return load_element(plane.dtype, block, i);
}

void write_token(const KvPlane& plane, int32_t place, int head, const float* x) {
  std::byte* block = plane.block(place / kPageTokens, head);
  const int slot = place % kPageTokens;
  if (slot == 0) std::memset(block, 0, plane.head_bytes());
  if (plane.scaled())
    return quantize_row(plane.dtype, x, plane.dim, plane.row(block, slot), plane.scales(block) + slot);
  for (int64_t c = 0; c < plane.dim; ++c) store_element(plane.dtype, block, plane_index(plane, slot, c), x[c]);
}

/// Rotates the pairs (i, i + d/2), in place.
void rotate(float* x, const float* cos, const float* sin, int64_t d) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

/// Softmax-weighted sum of values, taken in blocks of up to 64 keys: running maximum, sum and mix.
struct RunningMix {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;
  std::array<float, kHeadDimMax> mix{};

  /// Adds a block: its scores (-inf for keys that do not count), and value(j, c) for key j, channel c.
  template <class Value>
  void add(DType dtype, std::span<const float> scores, int64_t d, Value&& value) {
    const float block_max = *std::max_element(scores.begin(), scores.end());
    if (block_max == -std::numeric_limits<float>::infinity()) return;
    const float next_max = std::max(max, block_max);
    const float keep = std::exp(max - next_max);
    max = next_max;
    sum *= keep;
    for (int64_t c = 0; c < d; ++c) mix[static_cast<size_t>(c)] *= keep;
    for (size_t j = 0; j < scores.size(); ++j) {
      const float p = std::exp(scores[j] - max);
      if (p == 0) continue;
      sum += p;
      const float factor = rounded(dtype, p);
      for (int64_t c = 0; c < d; ++c) mix[static_cast<size_t>(c)] += factor * value(j, c);
    }
  }

  float result(int64_t c) const { return sum == 0 ? 0.0F : mix[static_cast<size_t>(c)] / sum; }
};

/// One query head of the row at `index` of a sequence.
void attend_row(const PagedAttention& op, const SequenceRows& sequence, int64_t row, int64_t index, int64_t head) {
  const DType dtype = op.q.dtype;
  const int64_t h = op.q.shape[1];
  const int64_t d = op.q.shape[2];
  const int64_t w = op.v.dim;
  const int kv_head = static_cast<int>(head / (h / op.k.heads));
  const int64_t q0 = (row * h + head) * d;
  const int32_t* chosen = op.chosen.empty() ? nullptr : op.chosen.as<int32_t>() + row * op.chosen.shape[1];
  const int64_t count = chosen == nullptr ? index + 1 : std::find(chosen, chosen + op.chosen.shape[1], -1) - chosen;
  const auto at = [&](int64_t key) { return chosen == nullptr ? key : chosen[key]; };
  const auto block = [&](const KvPlane& plane, int64_t token) {
    return plane.block(sequence.pages[static_cast<size_t>(token / kPageTokens)], kv_head);
  };
  RunningMix running;
  std::array<float, kPageTokens> scores;
  for (int64_t first = 0; first < count; first += kPageTokens) {
    scores.fill(-std::numeric_limits<float>::infinity());
    for (int64_t j = 0; j < kPageTokens && first + j < count; ++j) {
      const int64_t token = at(first + j);
      std::byte* keys = block(op.k, token);
      float dot = 0;
      for (int64_t c = 0; c < d; ++c) {
        dot += load_element(dtype, op.q.data, q0 + c) * element(op.k, keys, static_cast<int>(token % kPageTokens), c);
      }
      scores[static_cast<size_t>(j)] = dot * op.scale;
    }
    running.add(dtype, scores, w, [&](size_t j, int64_t c) {
      const int64_t token = at(first + static_cast<int64_t>(j));
      return element(op.v, block(op.v, token), static_cast<int>(token % kPageTokens), c);
    });
  }
  for (int64_t c = 0; c < w; ++c) store_element(dtype, op.out.data, (row * h + head) * w + c, running.result(c));
}

}  // namespace

void RefBackend::do_attention_input(const AttentionInput& op) {
  const int64_t n = op.q.shape[0];
  const int64_t h = op.q.shape[1];
  const int64_t d = op.q.shape[2];
  const int g = op.k.heads;
  std::array<float, kHeadDimMax> head;
  for (int64_t t = 0; t < n; ++t) {
    const float* q = op.qkv.as<float>() + t * (h + 2 * g) * d;
    const float* k = q + h * d;
    const float* v = k + g * d;
    const float* cos = op.cos.as<float>() + t * (d / 2);
    const float* sin = op.sin.as<float>() + t * (d / 2);
    for (int64_t i = 0; i < h; ++i) {
      rms_norm_row(q + i * d, op.q_norm.as<float>(), op.eps, d, head.data());
      rotate(head.data(), cos, sin, d);
      for (int64_t c = 0; c < d; ++c)
        store_element(op.q.dtype, op.q.data, (t * h + i) * d + c, head[static_cast<size_t>(c)]);
    }
    for (int i = 0; i < g; ++i) {
      rms_norm_row(k + i * d, op.k_norm.as<float>(), op.eps, d, head.data());
      rotate(head.data(), cos, sin, d);
      write_token(op.k, op.slots[static_cast<size_t>(t)], i, head.data());
      write_token(op.v, op.slots[static_cast<size_t>(t)], i, v + i * d);
    }
  }
}

void RefBackend::do_paged_attention(const PagedAttention& op) {
  for (const SequenceRows& sequence : op.sequences) {
    for (int64_t t = 0; t < sequence.rows; ++t) {
      for (int64_t head = 0; head < op.q.shape[1]; ++head) {
        attend_row(op, sequence, sequence.first_row + t, sequence.context + t, head);
      }
    }
  }
}

void RefBackend::do_vision_attention(const VisionAttention& op) {
  const DType dtype = op.out.dtype;
  const int64_t p = op.qkv.shape[0];
  const int64_t h = op.heads;
  const int64_t d = op.qkv.shape[3];
  // q, k and v of every patch, rotated and rounded: [p, 3, h, d].
  std::vector<float> rotated(static_cast<size_t>(p * 3 * h * d));
  for (int64_t i = 0; i < p * 3 * h; ++i) {
    float* head = rotated.data() + i * d;
    const int64_t patch = i / (3 * h);
    for (int64_t c = 0; c < d; ++c) head[c] = load_element(op.qkv.dtype, op.qkv.data, i * d + c);
    if (i / h % 3 != 2) rotate(head, op.cos.as<float>() + patch * (d / 2), op.sin.as<float>() + patch * (d / 2), d);
    for (int64_t c = 0; c < d; ++c) head[c] = rounded(dtype, head[c]);
  }
  const auto part = [&](int64_t patch, int64_t which, int64_t head) {
    return rotated.data() + ((patch * 3 + which) * h + head) * d;
  };
  std::array<float, kPageTokens> scores;
  for (size_t s = 0; s + 1 < op.segments.size(); ++s) {
    const int64_t end = op.segments[s + 1];
    for (int64_t i = op.segments[s]; i < end; ++i) {
      for (int64_t head = 0; head < h; ++head) {
        RunningMix running;
        for (int64_t first = op.segments[s]; first < end; first += kPageTokens) {
          const auto count = static_cast<size_t>(std::min<int64_t>(kPageTokens, end - first));
          for (size_t j = 0; j < count; ++j) {
            float dot = 0;
            for (int64_t c = 0; c < d; ++c)
              dot += part(i, 0, head)[c] * part(first + static_cast<int64_t>(j), 1, head)[c];
            scores[j] = dot * op.scale;
          }
          running.add(dtype, std::span(scores).first(count), d,
                      [&](size_t j, int64_t c) { return part(first + static_cast<int64_t>(j), 2, head)[c]; });
        }
        for (int64_t c = 0; c < d; ++c) store_element(dtype, op.out.data, (i * h + head) * d + c, running.result(c));
      }
    }
  }
}

}  // namespace keye::ops
