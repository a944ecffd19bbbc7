#include "media/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "media/resize_kernels.h"

namespace keye::media {
namespace {

struct Filter {
  double radius;
  double (*weight)(double distance);
  /// Weights fit 16 bits with their sign, as torch has them; otherwise they have kWeightBits fractional bits.
  bool short_weights = false;
};

double triangle(double distance) {
  const double x = std::abs(distance);
  return x < 1.0 ? 1.0 - x : 0.0;
}

/// Keys' cubic convolution kernel with a = -0.5. The order of operations is part of the result.
double cubic(double distance) {
  constexpr double a = -0.5;
  const double x = std::abs(distance);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

Filter filter_of(Resample resample) {
  return resample == Resample::bilinear ? Filter{1.0, triangle} : Filter{2.0, cubic};
}

int32_t to_fixed(double weight, int bits) {
  const auto rounded = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << bits));
  return rounded << (kWeightBits - bits);  // what the kernels shift away again: rounding is that of `bits`
}

/// The fractional bits with which `largest` still fits 16 bits.
int short_weight_bits(double largest) {
  int bits = 0;
  while (bits < kWeightBits && static_cast<int>(0.5 + largest * (1 << (bits + 1))) < (1 << 15)) ++bits;
  return bits;
}

/// The weights of one axis.
class Axis {
 public:
  Axis(int in_size, int out_size, const Filter& filter) {
    const double scale = static_cast<double>(static_cast<float>(in_size)) / out_size;
    const double widening = std::max(scale, 1.0);
    const double support = filter.radius * widening;
    const double narrowing = 1.0 / widening;
    const size_t taps_max = static_cast<size_t>(std::ceil(support)) * 2 + 1;
    stride_ = (taps_max + 3) / 4 * 4;  // kernels take four at a time
    first_.resize(static_cast<size_t>(out_size));
    count_.resize(static_cast<size_t>(out_size));
    std::vector<double> exact(static_cast<size_t>(out_size) * stride_);
    double largest = 0;
    for (size_t out = 0; out < first_.size(); ++out) {
      const double center = (static_cast<double>(out) + 0.5) * scale;
      const int begin = std::max(0, static_cast<int>(std::floor(center - support + 0.5)));
      const int end = std::min(in_size, static_cast<int>(std::floor(center + support + 0.5)));
      const size_t count = static_cast<size_t>(end - begin);
      double* weights = exact.data() + out * stride_;
      double total = 0;
      for (size_t t = 0; t < count; ++t) {
        weights[t] = filter.weight((static_cast<double>(t) + begin - center + 0.5) * narrowing);
        total += weights[t];
      }
      for (size_t t = 0; t < count; ++t) {
        if (total != 0.0) weights[t] /= total;
        largest = std::max(largest, weights[t]);
      }
      first_[out] = begin;
      count_[out] = static_cast<int32_t>(count);
    }
    const int bits = filter.short_weights ? short_weight_bits(largest) : kWeightBits;
    weights_.reserve(exact.size());
    for (const double weight : exact) weights_.push_back(to_fixed(weight, bits));
  }

  Taps taps() const { return {first_.data(), count_.data(), weights_.data(), stride_}; }
  int first(int out) const { return first_[static_cast<size_t>(out)]; }
  int count(int out) const { return count_[static_cast<size_t>(out)]; }
  const int32_t* weights(int out) const { return weights_.data() + static_cast<size_t>(out) * stride_; }
  size_t taps_max() const { return stride_; }

 private:
  std::vector<int32_t> first_;
  std::vector<int32_t> count_;
  std::vector<int32_t> weights_;
  size_t stride_ = 0;
};

void resize_rows(const Image& image, const Filter& filter, Image& out) {
  const Axis axis(image.width, out.width, filter);
  for (int y = 0; y < out.height; ++y) {
    resize_kernels().row(image.row(y), image.width, axis.taps(), out.row(y), out.width);
  }
}

void resize_columns(const Image& image, const Filter& filter, Image& out) {
  const Axis axis(image.height, out.height, filter);
  std::vector<const uint8_t*> rows(axis.taps_max());
  for (int y = 0; y < out.height; ++y) {
    const int count = axis.count(y);
    for (int t = 0; t < count; ++t) rows[static_cast<size_t>(t)] = image.row(axis.first(y) + t);
    resize_kernels().column(rows.data(), axis.weights(y), count, out.row(y), out.row_bytes());
  }
}

/// Columns first: each output row is filtered down, then across.
void resize_down_first(const Image& image, const Filter& filter, Image& out) {
  const Axis across(image.width, out.width, filter);
  const Axis down(image.height, out.height, filter);
  std::vector<const uint8_t*> rows(down.taps_max());
  std::vector<uint8_t> filtered(image.row_bytes());
  for (int y = 0; y < out.height; ++y) {
    const int count = down.count(y);
    for (int t = 0; t < count; ++t) rows[static_cast<size_t>(t)] = image.row(down.first(y) + t);
    resize_kernels().column(rows.data(), down.weights(y), count, filtered.data(), filtered.size());
    resize_kernels().row(filtered.data(), image.width, across.taps(), out.row(y), out.width);
  }
}

/// Rows first. Input rows are resampled when the kernel first reaches them, into a ring of as many rows as the kernel
/// is high.
void resize_across_first(const Image& image, const Filter& filter, Image& out) {
  const Axis across(image.width, out.width, filter);
  const Axis down(image.height, out.height, filter);
  const size_t ring_rows = std::min(down.taps_max(), static_cast<size_t>(image.height));
  std::vector<uint8_t> ring(ring_rows * out.row_bytes());
  const auto slot = [&](int y) { return ring.data() + static_cast<size_t>(y) % ring_rows * out.row_bytes(); };
  std::vector<const uint8_t*> rows(down.taps_max());
  int next = down.first(0);
  for (int y = 0; y < out.height; ++y) {
    const int begin = down.first(y);
    const int count = down.count(y);
    for (; next < begin + count; ++next) {
      resize_kernels().row(image.row(next), image.width, across.taps(), slot(next), out.width);
    }
    for (int t = 0; t < count; ++t) rows[static_cast<size_t>(t)] = slot(begin + t);
    resize_kernels().column(rows.data(), down.weights(y), count, out.row(y), out.row_bytes());
  }
}

}  // namespace

Image resize(const Image& image, int height, int width, Resample filter) {
  KEYE_CHECK(height > 0 && width > 0, "a picture of {}x{}", height, width);
  if (height == image.height && width == image.width) return image;
  Image out(height, width);
  const Filter kernel = filter_of(filter);
  if (height == image.height) {
    resize_rows(image, kernel, out);
  } else if (width == image.width) {
    resize_columns(image, kernel, out);
  } else if (image.height > height && image.height - height > 2 * (image.width - width)) {
    resize_down_first(image, kernel, out);
  } else {
    resize_across_first(image, kernel, out);
  }
  return out;
}

Image resize_frame(const Image& image, int height, int width) {
  KEYE_CHECK(height > 0 && width > 0, "a frame of {}x{}", height, width);
  if (height == image.height && width == image.width) return image;
  Image out(height, width);
  const Filter kernel{1.0, triangle, true};
  if (height == image.height) {
    resize_rows(image, kernel, out);
  } else if (width == image.width) {
    resize_columns(image, kernel, out);
  } else {
    resize_across_first(image, kernel, out);
  }
  return out;
}

}  // namespace keye::media
