// How a matrix product is cut up: a pure function of the shape and the machine. No choice made here changes a result.
#pragma once

#include <cstdint>
#include <string>

#include "ops/cpu/isa.h"
#include "tensor/dtype.h"

namespace keye::ops {

struct CpuInfo {
  Isa isa = Isa::scalar;
  int threads = 1;
  int64_t l2_bytes = int64_t{1} << 20;   // of one core
  int64_t l3_bytes = int64_t{32} << 20;  // shared
};

/// The caches of this machine, asked once.
CpuInfo cpu_info(Isa isa, int threads);

struct LinearShape {
  int64_t rows = 0;
  int64_t inputs = 0;
  int64_t outputs = 0;
  bool gated = false;
  DType dtype = DType::bf16;
};

/// For each block of rows: x is packed into tiles; then threads take blocks of `group` panels by some tiles, and
/// multiply every tile by every panel of the block, one pass after another over the inputs.
struct LinearPlan {
  int64_t panels = 0;
  int64_t steps = 0;       // of a panel: pairs of bf16 inputs, or f32 inputs
  int tile_rows = 1;       // at most
  bool in_place = false;   // few rows: x is read where it lies
  int64_t block_rows = 0;  // rows of x that are packed at a time
  int64_t pass_steps = 0;  // steps of each pass: a group's share of the weights stays in the second-level cache
  int group = 1;           // panels that share a tile while it is near
  int parts = 1;           // pieces of a panel's tiles that threads may take one by one, near the end

  int64_t tiles(int64_t rows) const { return (rows + tile_rows - 1) / tile_rows; }
  int64_t passes() const { return (steps + pass_steps - 1) / pass_steps; }
};

LinearPlan plan_linear(const LinearShape& shape, const CpuInfo& cpu);
std::string to_string(const LinearPlan& plan);

}  // namespace keye::ops
