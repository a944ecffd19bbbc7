// Python's textwrap.wrap.
#pragma once

#include <cstdint>
#include <vector>

#include "text/marked.h"

namespace keye::text {

struct WrapStyle {
  int64_t width = 79;
  bool break_long_words = true;
  bool break_on_hyphens = true;
};

/// The lines of one paragraph, each of at most style.width characters (more where words may not be broken).
std::vector<Marked> word_wrap(const Marked& paragraph, const WrapStyle& style);

}  // namespace keye::text
