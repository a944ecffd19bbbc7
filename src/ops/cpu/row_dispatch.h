// How the ops that work row by row choose their kernels and share their rows among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/thread_pool.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/row_kernels.h"
#include "tensor/dtype.h"

namespace keye::ops {

/// The kernels of an instruction set; null for Isa::scalar, where the reference does the work.
inline const RowKernels* row_kernels(Isa isa) {
#if defined(KEYE_X86)
  switch (isa) {
    case Isa::scalar:
      return nullptr;
    case Isa::avx2:
      return &avx2_row_kernels();
    case Isa::avx512:
    case Isa::avx512_bf16:
      return &avx512_row_kernels();
  }
#endif
  static_cast<void>(isa);
  return nullptr;
}

/// out[i] = x[i] for i < count: f32, f16 or bf16 to f32, f32 to bf16, or a plain copy.
inline void copy_elements(const RowKernels& kernels, DType from, const void* x, DType to, void* out, int64_t count) {
  if (from == to) {
    std::memcpy(out, x, static_cast<size_t>(count) * dtype_bytes(from));
  } else if (to == DType::bf16) {
    kernels.narrow_bf16(static_cast<const float*>(x), static_cast<uint16_t*>(out), count);
  } else if (from == DType::bf16) {
    kernels.widen_bf16(static_cast<const uint16_t*>(x), static_cast<float*>(out), count);
  } else {
    kernels.widen_f16(static_cast<const uint16_t*>(x), static_cast<float*>(out), count);
  }
}

/// What one thread should at least have to do before another is worth waking, in bytes read and written: a few
/// microseconds of streaming.
inline constexpr int64_t kRangeBytes = 128 << 10;

/// Calls body(begin, end, worker) for consecutive ranges of [0, rows) on all threads; on the caller alone if the rows,
/// of `row_bytes` each, are worth one range only. For other work than streaming, row_bytes says what it compares to.
template <class Body>
void for_each_range(ThreadPool& pool, int64_t rows, int64_t row_bytes, Body&& body) {
  const int64_t step = std::max<int64_t>(1, kRangeBytes / std::max<int64_t>(1, row_bytes));
  pool.for_each((rows + step - 1) / step,
                [&](int64_t item, int worker) { body(item * step, std::min(rows, (item + 1) * step), worker); });
}

}  // namespace keye::ops
