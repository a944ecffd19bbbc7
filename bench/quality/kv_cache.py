#!/usr/bin/env python3
"""What a KV cache of few bits changes: logits of every position of the golden cases, in bf16, with keys and values in 8 bits and in
16. The first row says what bf16 itself changes, beside f32. Prints a Markdown table; needs nothing but Python and the program.

usage: bench/quality/kv_cache.py [KIND ...]      (kinds of tests/golden/expected)"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from program import CHECKPOINTS, GOLDEN, NANO, PROGRAM, golden, golden_messages, numbers, read_tensors  # noqa: E402

CACHES = ["fp8", "int8", "int8,fp8"]
KINDS = ["qwen3-moe-text", "keye-1_5", "keye-2_0", "keye-nano"]


def logits_of(kind: str, name: str, folder: Path, *flags: str) -> list[list[float]]:
    case = golden(kind, name)["case"]
    source = folder / "source.json"
    if "messages" in case:
        source.write_text(json.dumps(golden_messages(kind, name)))
    else:
        source.write_text(json.dumps(golden(kind, name)["input_ids"]))
    out = folder / "out.safetensors"
    model = NANO if kind == "keye-nano" else CHECKPOINTS / kind
    subprocess.run([PROGRAM, "logits", "--model", model, "--messages" if "messages" in case else "--ids", source, "--out", out, *flags],
                   check=True, cwd=ROOT)
    tensor = read_tensors(out)["logits"]
    values, width = numbers(tensor), tensor[1][1]
    return [values[i : i + width] for i in range(0, len(values), width)]


class Difference:
    def __init__(self):
        self.squares = self.of = self.largest = 0.0
        self.rows = self.same = 0

    def add(self, ours: list[list[float]], theirs: list[list[float]]) -> None:
        for a, b in zip(ours, theirs, strict=True):
            self.squares += sum((x - y) ** 2 for x, y in zip(a, b))
            self.of += sum(y * y for y in b)
            self.largest = max(self.largest, max(abs(x - y) for x, y in zip(a, b)))
            self.rows += 1
            self.same += a.index(max(a)) == b.index(max(b))

    def __str__(self) -> str:
        return f"{100 * math.sqrt(self.squares / self.of):.2f} % | {self.largest:.2f} | {100 * self.same / self.rows:.1f} %"


def main() -> None:
    print("| model | cache | beside | rms of the difference, of the logits' | largest difference | same best token |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in sys.argv[1:] or KINDS:
            cases = []
            for file in sorted((GOLDEN / "expected" / kind).glob("*.json")):
                case = golden(kind, file.stem)["case"]
                if not case.get("template_variables") and not case.get("videos"):
                    cases.append(file.stem)
            found = {cache: Difference() for cache in ["bf16", *CACHES]}
            for case in cases:
                plain = logits_of(kind, case, folder, "--dtype", "bf16")
                found["bf16"].add(plain, logits_of(kind, case, folder, "--dtype", "f32"))
                for cache in CACHES:
                    found[cache].add(logits_of(kind, case, folder, "--dtype", "bf16", "--kv-cache-dtype", cache), plain)
            for cache, difference in found.items():
                print(f"| {kind}, {len(cases)} cases, {difference.rows} positions | {cache} | {'f32' if cache == 'bf16' else 'bf16'} | "
                      f"{difference} |", flush=True)


if __name__ == "__main__":
    main()
