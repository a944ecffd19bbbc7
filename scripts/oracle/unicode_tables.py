#!/usr/bin/env python3
"""Writes src/text/unicode_tables.cc: the general category of every code point as the regular expressions of the
Hugging Face `tokenizers` wheel see it. Published tokenizers are defined by what that library does, so its tables are
asked for, whatever Unicode version the machine's ICU and Python have.

Usage: pip install tokenizers; scripts/oracle/unicode_tables.py > src/text/unicode_tables.cc
"""

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))


def category_of_all():
    category = [CATEGORIES.index("Cs")] * 0x110000
    for number, name in enumerate(CATEGORIES):
        if name == "Cs":
            continue
        others = set(normalizers.Replace(Regex(rf"\p{{{name}}}"), "").normalize_str(TEXT))
        for c in CODE_POINTS:
            if chr(c) not in others:
                category[c] = number
    return category


def numeric():
    """What the pre-tokenizer `Digits` takes for a number: Rust's own table, which may be newer."""
    found = set()
    digits = pre_tokenizers.Digits(individual_digits=True)
    for start in range(0, len(CODE_POINTS), 4096):
        text = "".join("a" + chr(c) for c in CODE_POINTS[start : start + 4096]) + "a"
        found.update(ord(piece) for piece, _ in digits.pre_tokenize_str(text) if len(piece) == 1 and piece != "a")
    return found


def runs(values):
    starts = [0] + [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    return [(start, values[start]) for start in starts]


def ranges(members):
    out = []
    for c in sorted(members):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    category = category_of_all()
    n = {i for i, name in enumerate(CATEGORIES) if name[0] == "N"}
    beyond = numeric() - {c for c in CODE_POINTS if category[c] in n}
    assert numeric() >= {c for c in CODE_POINTS if category[c] in n}
    print(f"// Written by scripts/oracle/unicode_tables.py from tokenizers {tokenizers.__version__}. Not to be edited.")
    print('// clang-format off\n#include "text/unicode_tables.h"\n\nnamespace keye::text {\n')
    print("// Runs of equal general category: first code point << 5 | number of the category.")
    print("const uint32_t kCategoryRuns[] = {")
    words = [f"0x{start << 5 | value:x}," for start, value in runs(category)]
    line = "   "
    for word in words:
        if len(line) + len(word) + 1 > 120:
            print(line)
            line = "   "
        line += " " + word
    print(line + "\n};")
    print(f"const size_t kCategoryRunCount = {len(words)};\n")
    print("const char32_t kNumericBeyondN[][2] = {" + ", ".join(f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(beyond)) + "};")
    print(f"const size_t kNumericBeyondNCount = {len(ranges(beyond))};\n\n}}  // namespace keye::text")


if __name__ == "__main__":
    main()
