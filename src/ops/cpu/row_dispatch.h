// How the ops that work row by row choose their kernels and share their rows among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/row_kernels.h"

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
