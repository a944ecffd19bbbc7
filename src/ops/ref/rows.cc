#include <cstring>

#include "ops/ref/ref_backend.h"

namespace keye::ops {
namespace {

/// out[i] = x[i] for i < count, each of f32 or bf16.
void copy_elements(DType from, const std::byte* x, DType to, std::byte* out, size_t count) {
  if (from == to) {
    std::memcpy(out, x, count * dtype_bytes(from));
  } else if (to == DType::f32) {
    convert_to_float(from, x, reinterpret_cast<float*>(out), count);
  } else {
    const auto* wide = reinterpret_cast<const float*>(x);
    auto* narrow = reinterpret_cast<BFloat16*>(out);
    for (size_t i = 0; i < count; ++i) narrow[i] = BFloat16(wide[i]);
  }
}

}  // namespace

void RefBackend::do_embed(const Embed& op) {
  const auto c = static_cast<size_t>(op.table.shape[1]);
  const size_t row_bytes = c * dtype_bytes(op.table.dtype);
  for (size_t t = 0; t < op.tokens.size(); ++t) {
    const std::byte* row = op.table.as<std::byte>() + static_cast<size_t>(op.tokens[t]) * row_bytes;
    convert_to_float(op.table.dtype, row, op.out.as<float>() + t * c, c);
  }
}

void RefBackend::do_copy_rows(const CopyRows& op) {
  const auto c = static_cast<size_t>(op.x.shape[1]);
  const size_t from_bytes = c * dtype_bytes(op.x.dtype);
  const size_t to_bytes = c * dtype_bytes(op.out.dtype);
  for (size_t i = 0; i < op.from.size(); ++i) {
    copy_elements(op.x.dtype, op.x.as<std::byte>() + static_cast<size_t>(op.from[i]) * from_bytes, op.out.dtype,
                  op.out.as<std::byte>() + static_cast<size_t>(op.to[i]) * to_bytes, c);
  }
}

void RefBackend::do_convert(const Convert& op) {
  copy_elements(op.x.dtype, op.x.as<std::byte>(), op.out.dtype, op.out.as<std::byte>(),
                static_cast<size_t>(op.x.elements()));
}

}  // namespace keye::ops
