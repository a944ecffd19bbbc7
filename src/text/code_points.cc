#include "text/code_points.h"

#include <algorithm>

#include "text/unicode_tables.h"

namespace keye::text {

CodePointSet CodePointSet::operator|(const CodePointSet& other) const {
  std::vector<Range> all(ranges_.size() + other.ranges_.size());
  std::merge(ranges_.begin(), ranges_.end(), other.ranges_.begin(), other.ranges_.end(), all.begin(),
             [](const Range& a, const Range& b) { return a.first < b.first; });
  CodePointSet sum;
  for (const Range& range : all) {
    if (!sum.ranges_.empty() && range.first <= sum.ranges_.back().last + 1) {
      sum.ranges_.back().last = std::max(sum.ranges_.back().last, range.last);
    } else {
      sum.ranges_.push_back(range);
    }
  }
  return sum;
}

CodePointSet CodePointSet::operator~() const {
  CodePointSet rest;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) rest.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kCodePointMax) rest.ranges_.push_back({next, kCodePointMax});
  return rest;
}

bool CodePointSet::contains(char32_t c) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), c,
                                      [](char32_t value, const Range& range) { return value < range.first; });
  return after != ranges_.begin() && c <= (after - 1)->last;
}

std::optional<CodePointSet> CodePointSet::category(std::string_view name) {
  CodePointSet set;
  bool known = false;
  for (const std::string_view full : kCategoryNames) known |= name == full || name == full.substr(0, 1);
  if (!known) return std::nullopt;
  for (size_t i = 0; i < kCategoryRunCount; ++i) {
    const std::string_view here = kCategoryNames[kCategoryRuns[i] & 31];
    if (here.substr(0, name.size()) != name) continue;
    const char32_t first = kCategoryRuns[i] >> 5;
    const char32_t last = i + 1 < kCategoryRunCount ? (kCategoryRuns[i + 1] >> 5) - 1 : kCodePointMax;
    if (!set.ranges_.empty() && set.ranges_.back().last + 1 == first) {
      set.ranges_.back().last = last;
    } else {
      set.ranges_.push_back({first, last});
    }
  }
  return set;
}

const CodePointSet& CodePointSet::white_space() {
  static const CodePointSet set = *category("Z") | CodePointSet('\t', '\r') | CodePointSet(0x85, 0x85);
  return set;
}

const CodePointSet& CodePointSet::word() {
  // Letters, marks, digits and connectors; then the alphabetic symbols (enclosed letters) and the two joiners.
  static const CodePointSet set = *category("L") | *category("M") | *category("Nd") | *category("Nl") |
                                  *category("Pc") | CodePointSet(0x24B6, 0x24E9) | CodePointSet(0x1F130, 0x1F149) |
                                  CodePointSet(0x1F150, 0x1F169) | CodePointSet(0x1F170, 0x1F189) |
                                  CodePointSet(0x200C, 0x200D);
  return set;
}

const CodePointSet& CodePointSet::numeric() {
  static const CodePointSet set = [] {
    CodePointSet numbers = *category("N");
    for (size_t i = 0; i < kNumericBeyondNCount; ++i) {
      numbers |= CodePointSet(kNumericBeyondN[i][0], kNumericBeyondN[i][1]);
    }
    return numbers;
  }();
  return set;
}

}  // namespace keye::text
