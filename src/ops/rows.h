// Moving and combining rows.
#pragma once

#include <cstdint>
#include "ops/indices.h"
#include "tensor/view.h"

namespace keye::ops {

class Backend;

/// out[t] = table[tokens[t]]:  table [v, c] f32, f16 or bf16;  tokens in [0, v);  out [n, c] f32.
struct Embed {
  ConstView table;
  Indices tokens;
  View out;
};
void embed(Backend& backend, const Embed& op);

/// out[to[i]] = x[from[i]]:  x [m, c] and out [n, c], f32 or bf16 each (rounded to nearest even if out is bf16).
/// No row is named twice in `to`.
struct CopyRows {
  ConstView x;
  Indices from;
  Indices to;
  View out;
};
void copy_rows(Backend& backend, const CopyRows& op);

/// out = x, element by element, converted:  f32 or bf16 to f32 or bf16, same number of elements.
struct Convert {
  ConstView x;
  View out;
};
void convert(Backend& backend, const Convert& op);

}  // namespace keye::ops
