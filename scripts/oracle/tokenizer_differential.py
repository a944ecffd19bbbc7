#!/usr/bin/env python3
"""Compares `keye tokenize` and `keye detokenize` with the Hugging Face `tokenizers` package on random strings.

Usage: pip install tokenizers
       scripts/oracle/tokenizer_differential.py [--keye build/release/keye] [--strings N] [--code-points] [--seed S]
                                                [--random N] TOKENIZER.json[.gz]...

For each tokenizer: N random strings (encoding, and decoding of the ids, of mutilated and of random ids), with
--code-points also every code point alone and in several surroundings. --random N makes N tokenizers of its own, with
random merges, splits and added tokens, and tries 2,000 strings on each. Ends with 1 at the first difference.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

BATCH = 100_000
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
BLOCKS = [  # first and last code point, weight
    (0x20, 0x7E, 30), (0x61, 0x7A, 25), (0x30, 0x39, 10), (0x00, 0x1F, 2), (0x7F, 0xFF, 5), (0x100, 0x24F, 4),
    (0x250, 0x2FF, 2), (0x300, 0x36F, 5), (0x370, 0x52F, 5), (0x590, 0x6FF, 4), (0x700, 0x8FF, 1), (0x900, 0xDFF, 4),
    (0xE00, 0xFFF, 3), (0x1000, 0x139F, 2), (0x1400, 0x1CFF, 2), (0x1D00, 0x1FFF, 3), (0x2000, 0x206F, 5),
    (0x2070, 0x2BFF, 4), (0x2C00, 0x2FFF, 1), (0x3000, 0x30FF, 6), (0x3100, 0x33FF, 2), (0x3400, 0x4DBF, 1),
    (0x4E00, 0x9FFF, 12), (0xA000, 0xABFF, 2), (0xAC00, 0xD7A3, 4), (0xD7B0, 0xD7FF, 1), (0xE000, 0xF8FF, 1),
    (0xF900, 0xFAFF, 2), (0xFB00, 0xFDFF, 2), (0xFE00, 0xFEFF, 2), (0xFF00, 0xFFFF, 3), (0x10000, 0x11FFF, 3),
    (0x12000, 0x1CFFF, 1), (0x1D000, 0x1DFFF, 2), (0x1E000, 0x1EFFF, 2), (0x1F000, 0x1FAFF, 6), (0x20000, 0x323AF, 2),
    (0xE0000, 0xE01EF, 1), (0xF0000, 0x10FFFF, 1),
]
FRAGMENTS = [
    "the", " The", " of", "ing", "'s", "'S", "'ll", "'\u017f", "'RE", "don't", "I'M", "  ", "   ", "\n", "\r\n", "\n\n", " \n ",
    "\t", "\t\t", "\u00a0", "\u2003", "\u3000", "\u180e", "\u200b", "\u200d", "\ufeff", "\u0085", "\u2028", "123", "1234567", "3.14", "\u0661\u0662",
    "\u2167", "\u00bd", "def f(x):", "    return x", "!=", "==", "...", "---", "://", "\u4f60\u597d", "\u3067\u3059", "\uac00\u11a8", "\u1100\u1161\u11a8",
    "e\u0301", "\u0301", "\u0323\u0307", "\u0344", "\u212b", "\ufb01", "\ufb05", "\u00df", "\u0130", "\u212a", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd",
    "\U0001f1e8\U0001f1f3", "\u2764\ufe0f", "\u0915\u094d\u0937\u093f", "\u0e17\u0e35\u0e48", "\u05e9\u05c1", "\u0644\u0627", "\U0001d7d8", "\U00031350", "\U00010d4a", "\U00016ff4",
    "<|", "|>", "<|im_start|>", "<|im_end|>", "<think>", "</", "\uff5c",
]


class Strings:
    def __init__(self, seed, tokenizer):
        self.random = random.Random(seed)
        self.blocks = [(a, b) for a, b, _ in BLOCKS]
        self.weights = [w for _, _, w in BLOCKS]
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self.added = added if len(added) < 100 else self.random.sample(added, 100)

    def character(self):
        while True:
            a, b = self.random.choices(self.blocks, self.weights)[0]
            c = self.random.randint(a, b)
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    def piece(self):
        kind = self.random.random()
        if kind < 0.3:
            return self.random.choice(FRAGMENTS)
        if kind < 0.38 and self.added:
            token = self.random.choice(self.added)
            if self.random.random() < 0.3:
                a, b = sorted((self.random.randint(0, len(token)), self.random.randint(0, len(token))))
                token = token[a:b]
            return token
        if kind < 0.43:
            return self.character() * self.random.randint(1, 12)
        if kind < 0.55:
            a, b = self.random.choices(self.blocks, self.weights)[0]
            return "".join(chr(c) for c in (self.random.randint(a, b) for _ in range(5)) if not 0xD800 <= c < 0xE000)
        return self.character()

    def string(self):
        length = min(int(self.random.expovariate(1 / 8)) + 1, 120)
        return "".join(self.piece() for _ in range(length))


def code_point_strings():
    for c in CODE_POINTS:
        x = chr(c)
        yield x
        yield "a" + x + "b"
        yield " " + x + x + " "
        yield "1" + x + "1\n" + x + "\n"
        yield "'" + x + "!" + x + "\u4e00" + x + "\u3042"
        yield "o" + x + "\u0323\u0301" + x + "\u0301\u094d"


def batches(strings):
    batch = []
    for string in strings:
        batch.append(string)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def keye(arguments, values):
    lines = "".join(json.dumps(value) + "\n" for value in values)
    done = subprocess.run(arguments + ["--jsonl"], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.decode().split("\n") if line]


class Differ:
    def __init__(self, program, name, path):
        self.name = name
        self.flags = ["--tokenizer", path]
        self.program = program
        self.theirs = Tokenizer.from_file(path)
        self.count = 0

    def fail(self, what, given, expected, found):
        print(f"{self.name}: {what} differs\n given    {given!r}\n expected {expected!r}\n found    {found!r}")
        sys.exit(1)

    def encode(self, strings):
        every = []
        for batch in batches(strings):
            expected = [e.ids for e in self.theirs.encode_batch_fast(batch, add_special_tokens=False)]
            found = keye([self.program, "tokenize"] + self.flags, batch)
            if len(found) != len(expected):
                sys.exit(f"{self.name}: {len(found)} lines for {len(expected)} strings")
            for string, a, b in zip(batch, expected, found):
                if a != b:
                    self.fail("encoding", string, a, b)
            self.count += len(batch)
            every += found[: max(0, 20_000 - len(every))]
        return every

    def decode(self, sequences):
        for skip in (False, True):
            expected = self.theirs.decode_batch(sequences, skip_special_tokens=skip)
            found = keye([self.program, "detokenize"] + self.flags + ["--skip-special-tokens"] * skip, sequences)
            for ids, a, b in zip(sequences, expected, found, strict=True):
                if a != b:
                    self.fail(f"decoding (skip_special_tokens={skip})", ids, a, b)
            self.count += len(sequences)


def random_ids(rng, tokenizer, encoded):
    size = max(tokenizer.get_vocab().values()) + 1
    out = []
    for ids in encoded:
        ids = [i for i in ids if rng.random() > 0.2]
        ids.insert(rng.randint(0, len(ids)), rng.randrange(size + 3))
        out.append(ids)
    out += [[rng.randrange(min(size, 600)) for _ in range(rng.randint(0, 30))] for _ in range(len(encoded))]
    return out


def compare(program, name, path, seed, count, code_points):
    start = time.time()
    differ = Differ(program, name, path)
    strings = Strings(seed, differ.theirs)
    encoded = differ.encode(strings.string() for _ in range(count))
    if code_points:
        differ.encode(code_point_strings())
    differ.decode(encoded)
    differ.decode(random_ids(strings.random, differ.theirs, encoded))
    print(f"{name}: {differ.count:,} comparisons, no difference ({time.time() - start:.0f} s)", flush=True)
    return differ.count


BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
ATOMS = ["\\p{L}", "\\p{N}", "\\s", "\\S", "\\p{P}", "\\p{M}", "\\d", "\\D", "[^\\s\\p{L}]", "[a-zA-Z_]", "[\\r\\n]", "a", "e", " ", "\u4e00", ".",
         "[\u4e00-\u9fff\u3040-\u30ff]", "\\p{Lu}", "[\\p{Ll}\\p{Mn}]", "\\.", "\\x61", "\\u00e9", "\\P{L}", "\\p{^Lu}", "[!\"#\\-\\]'&]", "\\n",
         "(?i:'s|'t|'re|k)", "(?i:[a-k'])", "\\p{So}", "\\t"]
QUANTIFIERS = ["", "", "", "+", "*", "?", "{1,3}", "{2}", "{,2}", "{2,}", "++", "?+", "*+", "+?", "*?", "??"]


def random_regex(rng, depth=0):
    parts = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if depth < 2 and kind < 0.15:
            group = rng.choice(["(?:", "("])
            inner = random_regex(rng, depth + 1)
            quantifier = rng.choice(["", "+", "?"]) if all(c not in inner for c in "*?{+") else ""
            parts.append(group + inner + ")" + quantifier)
        elif depth < 2 and kind < 0.25:
            parts.append(rng.choice(["(?=", "(?!", "(?<=", "(?<!"]) + rng.choice(ATOMS[:24]) + ")")
        else:
            parts.append(rng.choice(ATOMS) + rng.choice(QUANTIFIERS))
    pattern = "".join(parts)
    return pattern + "|" + random_regex(rng, depth) if rng.random() < 0.4 else pattern


def random_split(rng):
    if rng.random() < 0.15:
        return {"type": "Digits", "individual_digits": rng.random() < 0.5}
    if rng.random() < 0.25:
        pattern = {"String": rng.choice([" ", "the", "a", "ab", ".", "\n", "\u4f60", "e\u0301", "..."])}
    else:
        pattern = {"Regex": random_regex(rng)}
    return {"type": "Split", "pattern": pattern, "behavior": rng.choice(BEHAVIORS), "invert": rng.random() < 0.3}


def byte_letters():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def random_model(rng):
    letters = byte_letters()
    vocabulary = list(letters.values())
    unknown = rng.random() < 0.3
    if rng.random() < 0.3:
        vocabulary = [t for t in vocabulary if rng.random() < 0.9]
    merges = []
    frequent = [letters[b] for b in b" etaoinsrhl\n1230'.\xe4\xbd\xa0\xcc\x81\xc3\xa9"]
    frequent = [t for t in frequent if t in vocabulary]
    tokens = set(vocabulary)
    for _ in range(rng.randint(5, 400)):
        a, b = (rng.choice(frequent) if rng.random() < 0.4 else rng.choice(vocabulary) for _ in "ab")
        if len(a + b) > 9:
            continue
        if a + b not in tokens:
            tokens.add(a + b)
            vocabulary.append(a + b)
        frequent.append(a + b)
        merges.append((a, b))
    if unknown:
        vocabulary.append("<unk>")
    rng.shuffle(vocabulary)
    pairs = rng.random() < 0.5
    return {
        "type": "BPE", "dropout": None, "unk_token": "<unk>" if unknown else None,
        "continuing_subword_prefix": rng.choice([None, ""]), "end_of_word_suffix": rng.choice([None, ""]),
        "fuse_unk": rng.random() < 0.5, "byte_fallback": False, "ignore_merges": rng.random() < 0.3,
        "vocab": {t: i for i, t in enumerate(vocabulary)},
        "merges": [list(m) if pairs else " ".join(m) for m in merges],
    }


def random_added(rng, vocabulary):
    contents = ["<s>", "<s", "<sp>", "  ", "\n", " x", "the", "The", "e\u0301", "\u00e9", "\ufb01", "<|im_start|>", "<|im_end|>", "a\u0323\u0307", "12", "\u4f60",
                "<think>", "'s", "o", "<\uff5c", " <s>", "\u0130", "ab c", "\u3000", "\U0001f469"]
    tokens, next_id, normal = [], len(vocabulary), set()
    import unicodedata

    for content in rng.sample(contents, rng.randint(0, 8)):
        forms = {unicodedata.normalize(form, content) for form in ("NFC", "NFD", "NFKC", "NFKD")}
        if forms & normal:  # tokens that are equal after normalisation are refused by one, confused by the other
            continue
        normal |= forms
        known = vocabulary.get(content)
        tokens.append({
            "id": next_id if known is None else known, "content": content, "single_word": rng.random() < 0.3,
            # The library panics where a token of spaces would take the spaces that another has already taken.
            "lstrip": bool(content.strip()) and rng.random() < 0.3,
            "rstrip": rng.random() < 0.3, "normalized": rng.random() < 0.5,
            "special": rng.random() < 0.4,
        })
        next_id += known is None
    return tokens


def random_tokenizer(rng):
    model = random_model(rng)
    byte_level = {"type": "ByteLevel", "add_prefix_space": rng.random() < 0.3, "trim_offsets": True, "use_regex": rng.random() < 0.4}
    splits = [random_split(rng) for _ in range(rng.randint(0, 3))]
    forms = [{"type": rng.choice(["NFC", "NFD", "NFKC", "NFKD"])} for _ in range(rng.randint(0, 2))]
    normalizer = forms[0] if len(forms) == 1 and rng.random() < 0.5 else {"type": "Sequence", "normalizers": forms}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": random_added(rng, model["vocab"]),
        "normalizer": rng.choice([None, normalizer, normalizer]),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits + [byte_level]} if splits else byte_level,
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def compare_random(program, seed, number, folder):
    rng = random.Random(seed * 1_000_003 + number)
    path = os.path.join(folder, "tokenizer.json")
    while True:
        made = random_tokenizer(rng)
        try:
            Tokenizer.from_str(json.dumps(made))
            break
        except Exception:  # a pattern that the library refuses
            continue
    with open(path, "w") as file:
        json.dump(made, file)
    tried = subprocess.run([program, "tokenize", "--tokenizer", path, "--text", ""], capture_output=True, text=True)
    if tried.returncode != 0:
        reason = tried.stderr.strip()
        if "regular expression" in reason:
            return 0
        sys.exit(f"random tokenizer {number}: {reason}")
    return compare(program, f"random tokenizer {number}", path, rng.random(), 2_000, False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--keye", default="build/release/keye")
    arguments.add_argument("--strings", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--code-points", action="store_true")
    arguments.add_argument("--random", type=int, default=0)
    arguments.add_argument("tokenizers", nargs="*")
    flags = arguments.parse_args()
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for given in flags.tokenizers:
            path = given
            if given.endswith(".gz"):
                path = os.path.join(folder, os.path.basename(given)[:-3])
                with gzip.open(given) as packed, open(path, "wb") as file:
                    file.write(packed.read())
            total += compare(flags.keye, given, path, flags.seed, flags.strings, flags.code_points)
        skipped = 0
        for number in range(flags.random):
            count = compare_random(flags.keye, flags.seed, number, folder)
            total += count
            skipped += count == 0
        if flags.random:
            print(f"{skipped} of {flags.random} random tokenizers have a pattern that keye refuses")
    print(f"{total:,} comparisons, no difference")


if __name__ == "__main__":
    main()
