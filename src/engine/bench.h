// Speed of a model beside the limits of the machine, measured in the same run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/device.h"
#include "model/model.h"

namespace keye::engine {

struct BenchLimits {
  double read_bytes_per_s = 0;  // of memory, all threads
  double peak_flops = 0;        // multiply-adds of the dtype, all threads; a multiply-add counts as two
};

struct BenchOptions {
  int prompt = 512;   // tokens before decoding starts, of each sequence
  int generate = 32;  // decode steps
  int batch = 1;      // sequences that decode together
  int repeat = 3;     // of everything; medians are reported
  DeviceOptions device;
  DType dtype = DType::bf16;
  int image_height = 0;  // pixels; 0: no vision measurement
  int image_width = 0;
  int frames = 1;                     // pictures of that size at once
  std::optional<BenchLimits> limits;  // measured before; else they are measured around the work
};

struct BenchPhase {
  double seconds = 0;  // median of the repeats
  double tokens = 0;   // of one repeat
  double flops = 0;    // of one repeat
  double bytes = 0;    // that one repeat must read: weights and KV
  double tokens_per_s() const { return tokens / seconds; }
  double flops_per_s() const { return flops / seconds; }
  double bytes_per_s() const { return bytes / seconds; }
};

struct BenchReport {
  BenchPhase prefill;
  BenchPhase decode;
  std::optional<BenchPhase> vision;  // tokens are patches
  BenchLimits limits;
  std::string backend;
};

/// Measures the limits of the machine once more and keeps the higher ones: a neighbour can only make a limit look
/// lower.
void raise_limits(BenchLimits& limits, const DeviceOptions& device, DType dtype);
/// The same of a device that has its own memory: a large copy, and a large product.
void raise_limits(BenchLimits& limits, ops::Backend& backend, DType dtype);

/// Flops a second of products as large as those of a prompt's chunk: takes a moment, for estimates. Errors: those of
/// open_device.
Result<double> product_speed(const DeviceOptions& device, DType dtype);

/// Called with what is being measured.
using BenchProgress = std::function<void(std::string_view)>;

/// `model` runs on `backend` with options.dtype. Errors: invalid_argument (a size that the model cannot take).
Result<BenchReport> run_bench(model::Model& model, ops::Backend& backend, const BenchOptions& options,
                              const BenchProgress& progress);

}  // namespace keye::engine
