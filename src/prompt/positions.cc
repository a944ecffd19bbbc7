#include <algorithm>
#include <numeric>

#include "prompt/prompt.h"

namespace keye::prompt {

Positions media_positions(std::span<const int32_t> tokens, std::span<const TokenGrid> grids, const MediaTokens& media) {
  Positions result;
  for (auto& axis : result.axes) axis.resize(tokens.size());
  int32_t next = 0;
  size_t grid = 0;
  for (size_t i = 0; i < tokens.size();) {
    if (!media.contains(tokens[i])) {
      for (auto& axis : result.axes) axis[i] = next;
      ++next;
      ++i;
      continue;
    }
    KEYE_CHECK(grid < grids.size(), "media token at {} after {} pictures", i, grids.size());
    const TokenGrid& box = grids[grid++];
    for (int row = 0; row < box.rows; ++row) {
      for (int col = 0; col < box.cols; ++col, ++i) {
        KEYE_CHECK(i < tokens.size() && media.contains(tokens[i]), "picture {} is cut short", grid);
        result.axes[0][i] = next;
        result.axes[1][i] = next + row;
        result.axes[2][i] = next + col;
      }
    }
    next += std::max({1, box.rows, box.cols});
  }
  KEYE_CHECK(grid == grids.size(), "{} of {} pictures are in the prompt", grid, grids.size());
  result.delta = next - static_cast<int32_t>(tokens.size());
  return result;
}

Positions text_positions(int64_t count) {
  Positions result;
  for (auto& axis : result.axes) {
    axis.resize(static_cast<size_t>(count));
    std::iota(axis.begin(), axis.end(), 0);
  }
  return result;
}

}  // namespace keye::prompt
