#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

using PanelSums = std::array<float, kPanel>;

float element(const StridedMatrix& matrix, int64_t row, int64_t col) {
  const int64_t index = row * matrix.row_stride + col * matrix.col_stride;
  float value = 0;
  convert_to_float(matrix.dtype,
                   static_cast<const std::byte*>(matrix.data) + index * static_cast<int64_t>(dtype_bytes(matrix.dtype)),
                   &value, 1);
  return value;
}

PanelSums panel_sums(const PackedMatrix& w, int64_t panel, const float* x) {
  const auto* weights = reinterpret_cast<const float*>(static_cast<const std::byte*>(w.data.data()) +
                                                       static_cast<size_t>(panel) * w.panel_bytes());
  PanelSums sums{};
  for (int64_t i = 0; i < w.inputs; ++i, weights += kPanel) {
    for (size_t lane = 0; lane < kPanel; ++lane) sums[lane] += x[i] * weights[lane];
  }
  return sums;
}

PanelSums panel_sums(const PackedMatrix& w, int64_t panel, const BFloat16* x) {
  const auto* weights = reinterpret_cast<const BFloat16*>(static_cast<const std::byte*>(w.data.data()) +
                                                          static_cast<size_t>(panel) * w.panel_bytes());
  PanelSums sums{};
  for (int64_t i = 0; i < w.inputs; i += 2, weights += 2 * kPanel) {
    const float even = static_cast<float>(x[i]);
    const float odd = i + 1 < w.inputs ? static_cast<float>(x[i + 1]) : 0.0F;
    for (size_t lane = 0; lane < kPanel; ++lane) {
      sums[lane] += even * static_cast<float>(weights[2 * lane]) + odd * static_cast<float>(weights[2 * lane + 1]);
    }
  }
  return sums;
}

/// A sum for each block of inputs, in the order of x's dtype, and their sum, each times its factor.
template <class T>
PanelSums block_sums(const PackedMatrix& w, int64_t panel, const T* x) {
  constexpr int64_t kStep = std::is_same_v<T, BFloat16> ? 2 : 1;
  const auto* codes = static_cast<const uint8_t*>(w.data.data()) + static_cast<size_t>(panel) * w.panel_bytes();
  const auto* scales = static_cast<const float*>(w.scales.data()) + panel * w.scale_blocks() * 2;
  PanelSums totals{};
  for (int64_t begin = 0; begin < w.inputs; begin += w.block_inputs, scales += 2) {
    PanelSums sums{};
    for (int64_t i = begin; i < std::min(w.inputs, begin + w.block_inputs); i += kStep) {
      for (size_t lane = 0; lane < kPanel; ++lane) {
        const auto weight = [&](int64_t at) {
          return f8_to_float(codes[(at / 2 * kPanel + static_cast<int64_t>(lane)) * 2 + at % 2]);
        };
        const auto in = [&](int64_t at) { return at < w.inputs ? static_cast<float>(x[at]) : 0.0F; };
        if constexpr (kStep == 1) {
          sums[lane] += in(i)*weight(i);
        } else {
          sums[lane] += in(i)*weight(i) + in(i + 1) * weight(i + 1);
        }
      }
    }
    for (size_t lane = 0; lane < kPanel; ++lane) totals[lane] += sums[lane] * scales[lane / (kPanel / 2)];
  }
  return totals;
}

float activate(Activation activation, float z) {
  switch (activation) {
    case Activation::gelu_tanh:
      return 0.5F * z * (1.0F + std::tanh(0.7978845608F * (z + 0.044715F * z * z * z)));
    case Activation::gelu_erf:
      return 0.5F * z * (1.0F + std::erf(z * 0.7071067812F));
    case Activation::none:
    case Activation::silu_mul:
      break;
  }
  return z;
}

/// One row of x against all of w, into row `row` of out.
template <class T>
void multiply_row(const PackedMatrix& w, const T* x, const float* bias, Activation activation, bool accumulate,
                  const View& out, int64_t row) {
  const int64_t columns = out.shape[1];
  const int64_t width = w.gated ? kPanel / 2 : kPanel;
  for (int64_t panel = 0; panel < w.panels(); ++panel) {
    const PanelSums sums = w.dtype == DType::f8_e4m3 ? block_sums(w, panel, x) : panel_sums(w, panel, x);
    for (int64_t lane = 0; lane < width && panel * width + lane < columns; ++lane) {
      const int64_t column = panel * width + lane;
      float z = sums[static_cast<size_t>(lane)] + (bias != nullptr ? bias[column] : 0.0F);
      if (w.gated) {
        const float up = sums[static_cast<size_t>(lane + width)] + (bias != nullptr ? bias[columns + column] : 0.0F);
        z = z / (1.0F + std::exp(-z)) * up;
      } else {
        z = activate(activation, z);
      }
      const int64_t place = row * columns + column;
      if (out.dtype == DType::bf16) {
        out.as<BFloat16>()[place] = BFloat16(z);
      } else {
        out.as<float>()[place] = accumulate ? out.as<float>()[place] + z : z;
      }
    }
  }
}

void multiply_row(const PackedMatrix& w, const ConstView& x, int64_t x_row, const float* bias, Activation activation,
                  bool accumulate, const View& out, int64_t row) {
  if (x.dtype == DType::bf16) {
    multiply_row(w, x.as<BFloat16>() + x_row * w.inputs, bias, activation, accumulate, out, row);
  } else {
    multiply_row(w, x.as<float>() + x_row * w.inputs, bias, activation, accumulate, out, row);
  }
}

}  // namespace

void pack_scales(const PackMatrix& source, PackedMatrix& packed) {
  packed.block_inputs = source.blocks.front().block_cols;
  const int64_t blocks = packed.scale_blocks();
  packed.scales = Buffer(static_cast<size_t>(packed.panels() * blocks * 2) * sizeof(float));
  auto* scales = static_cast<float*>(packed.scales.data());
  std::fill_n(scales, packed.panels() * blocks * 2, 0.0F);
  int64_t output = 0;
  for (size_t b = 0; b < source.blocks.size(); ++b) {
    const StridedMatrix& block = source.blocks[b];
    for (int64_t row = 0; row < block.rows; row += kPanel / 2) {
      const int64_t half =
          source.gated ? 2 * (row / (kPanel / 2)) + static_cast<int64_t>(b) : (output + row) / (kPanel / 2);
      for (int64_t i = 0; i < blocks; ++i) {
        scales[(half / 2 * blocks + i) * 2 + half % 2] = block.scale(row, i * packed.block_inputs);
      }
    }
    output += block.rows;
  }
}

PackedMatrix RefBackend::do_pack(const PackMatrix& source) {
  PackedMatrix packed;
  packed.dtype = source.dtype;
  packed.gated = source.gated;
  packed.inputs = source.blocks.front().cols;
  for (const StridedMatrix& block : source.blocks) packed.outputs += block.rows;
  packed.data = Buffer(static_cast<size_t>(packed.panels()) * packed.panel_bytes());
  if (packed.dtype == DType::f8_e4m3) pack_scales(source, packed);

  const int64_t step = packed.dtype == DType::f32 ? 1 : 2;  // inputs side by side in one lane
  int64_t output = 0;
  for (size_t b = 0; b < source.blocks.size(); ++b) {
    const StridedMatrix& block = source.blocks[b];
    for (int64_t row = 0; row < block.rows; ++row, ++output) {
      const int64_t half = kPanel / 2;
      const int64_t panel = source.gated ? row / half : output / kPanel;
      const int64_t lane = source.gated ? row % half + static_cast<int64_t>(b) * half : output % kPanel;
      std::byte* start =
          static_cast<std::byte*>(packed.data.data()) + static_cast<size_t>(panel) * packed.panel_bytes();
      for (int64_t i = 0; i < packed.inputs; ++i) {
        const int64_t place = (i / step * kPanel + lane) * step + i % step;
        if (packed.dtype == DType::f8_e4m3) {
          const auto* codes = static_cast<const uint8_t*>(block.data) + row * block.row_stride;
          reinterpret_cast<uint8_t*>(start)[place] = codes[i];
          continue;
        }
        const float value = element(block, row, i);
        if (packed.dtype == DType::bf16) {
          reinterpret_cast<BFloat16*>(start)[place] = BFloat16(value);
        } else {
          reinterpret_cast<float*>(start)[place] = value;
        }
      }
    }
  }
  return packed;
}

void RefBackend::do_linear(const Linear& op) {
  const float* bias = op.bias.empty() ? nullptr : op.bias.as<float>();
  for (int64_t t = 0; t < op.x.shape[0]; ++t) {
    multiply_row(op.w, op.x, t, bias, op.activation, op.accumulate, op.out, t);
  }
}

void RefBackend::do_grouped_linear(const GroupedLinear& op) {
  for (size_t e = 0; e < op.w.size(); ++e) {
    for (int64_t p = op.offsets.as<int32_t>()[e]; p < op.offsets.as<int32_t>()[e + 1]; ++p) {
      multiply_row(op.w[e], op.x, op.rows.empty() ? p : op.rows.as<int32_t>()[p], nullptr, op.activation, false, op.out,
                   p);
    }
  }
}

}  // namespace keye::ops
