// What the tests of the row ops share: random tensors, golden tensors, and every backend that this machine can run.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "tensor/safetensors.h"

namespace keye::ops {

/// Uniform in [-scale, scale), the same on every machine.
inline Tensor random_tensor(Shape shape, uint32_t seed, float scale = 1.0F) {
  Tensor result(DType::f32, shape);
  std::mt19937 generator(seed);
  for (int64_t i = 0; i < shape.elements(); ++i) {
    result.as<float>()[i] = scale * (static_cast<float>(generator() >> 8) * 0x1p-23F - 1.0F);
  }
  return result;
}

inline Tensor copy_of(const ConstView& view) {
  Tensor result(view.dtype, view.shape);
  std::memcpy(result.view().data, view.data, view.bytes());
  return result;
}

inline bool same_bits(const ConstView& a, const ConstView& b) {
  return a.dtype == b.dtype && a.elements() == b.elements() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

/// The largest |a - b| / max(1, |b|).
inline float difference(const ConstView& a, const ConstView& b) {
  KEYE_CHECK(a.elements() == b.elements() && a.dtype == DType::f32 && b.dtype == DType::f32);
  float worst = 0.0F;
  for (int64_t i = 0; i < a.elements(); ++i) {
    const float x = a.as<float>()[i];
    const float y = b.as<float>()[i];
    const float apart = std::abs(x - y) / std::max(1.0F, std::abs(y));
    if (!(apart <= worst)) worst = apart;  // NaN counts
  }
  return worst;
}

/// Every instruction set that this processor runs, from one thread to more threads than the work has rows.
inline std::vector<std::unique_ptr<Backend>> cpu_backends() {
  std::vector<std::unique_ptr<Backend>> result;
  for (const std::string isa : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    for (const int threads : {1, 2, 5}) {
      auto backend = make_cpu_backend({.threads = threads, .isa = isa});
      if (backend.has_value()) result.push_back(std::move(backend).value());
    }
  }
  return result;
}

/// One of two threads for every instruction set that this processor runs.
inline std::vector<std::unique_ptr<Backend>> backends_of_two_threads() {
  std::vector<std::unique_ptr<Backend>> result;
  for (const std::string isa : {"scalar", "avx2", "avx512", "avx512_bf16"}) {
    auto backend = make_cpu_backend({.threads = 2, .isa = isa});
    if (backend.has_value()) result.push_back(std::move(backend).value());
  }
  return result;
}

/// The tensors of a file in tests/golden/ops, by name.
class Golden {
 public:
  explicit Golden(const std::string& file = "ops.safetensors")
      : file_(TensorFile::open("tests/golden/ops/" + file).value()) {}
  ConstView operator[](const std::string& name) const {
    const auto found = file_.tensors().find(name);
    KEYE_CHECK(found != file_.tensors().end(), "no tensor {}", name);
    return found->second;
  }

 private:
  TensorFile file_;
};

}  // namespace keye::ops
