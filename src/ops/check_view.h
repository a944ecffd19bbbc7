// The one check that every front function repeats.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "base/check.h"
#include "tensor/view.h"

namespace keye::ops {

/// Ends the process unless `view` has this shape, one of these dtypes and, unless it has no elements, data.
inline void check_view(const char* what, const ConstView& view, const Shape& shape,
                       std::initializer_list<DType> dtypes) {
  KEYE_CHECK(view.shape == shape, "{} is {}, expected {}", what, view.shape.to_string(), shape.to_string());
  KEYE_CHECK(std::find(dtypes.begin(), dtypes.end(), view.dtype) != dtypes.end(), "{} has dtype {}", what,
             dtype_name(view.dtype));
  KEYE_CHECK(!view.empty() || shape.elements() == 0, "{} has no data", what);
}

}  // namespace keye::ops
