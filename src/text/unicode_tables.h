// General categories by code point, as the tokenizers library of Hugging Face sees them
// (scripts/oracle/unicode_tables.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace keye::text {

/// Names in the order of the numbers in kCategoryRuns.
inline constexpr const char* kCategoryNames[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                                 "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                                 "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};

extern const uint32_t kCategoryRuns[];
extern const size_t kCategoryRunCount;

/// Ranges outside category N that the pre-tokenizer `Digits` takes for numbers.
extern const char32_t kNumericBeyondN[][2];
extern const size_t kNumericBeyondNCount;

}  // namespace keye::text
