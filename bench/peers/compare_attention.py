#!/usr/bin/env python3
"""Decode of one layer of Keye-VL-2.0-30B-A3B at long contexts: keye's dense and sparse attention beside llama.cpp on a
Qwen3-MoE of the same shapes (32 heads on 4 key/value heads of 128, 128 experts of which 8 are used), 16 bits a number everywhere.

A step of the whole layer, attention and experts, is timed in both; llama.cpp first has to read the context, which takes a
minute at 16K tokens, and grows with its square. Needs nothing but Python; bench/peers/setup gets llama.cpp and the weights. Prints a
Markdown table. Exit code: 0, or 1 if a program failed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHAPE = "keye-2.0-30b-a3b"


def run(command: list[str]):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}: {' / '.join(last)}")
    return json.loads(done.stdout)


def keye_ms(program: Path, context: int, threads: int) -> dict:
    """Milliseconds of a decoding step of the layer, and of its attention alone."""
    report = run([str(program), "bench", "attention", "--shape", SHAPE, "--context", str(context), "--chunk", "1", "--layer",
                  "--threads", str(threads), "--json"])
    return {kind: {"layer": report[kind]["decode"]["layer_ms"], "attention": report[kind]["decode"]["ms"]}
            for kind in ("dense", "sparse")} | {"limits": report["limits"], "machine": report["machine"]}


def llama_ms(program: Path, gguf: Path, context: int, threads: int) -> float:
    """Milliseconds of a decoding step, with flash attention: without it the scores of such contexts take gigabytes."""
    runs = run([str(program), "-m", str(gguf), "-t", str(threads), "-p", "0", "-n", "16", "-d", str(context), "-r", "2",
                "-fa", "1", "-o", "json"])
    return 1000 / statistics.median(runs[0]["samples_ts"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder made by bench/peers/setup")
    parser.add_argument("--keye", type=Path, default=HERE.parents[1] / "build/release/keye", help="program to measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contexts", type=int, nargs="+", default=[16384, 65536])
    arguments = parser.parse_args()
    programs = sorted(arguments.peers.glob("src/llama_cpp_python-*/vendor/llama.cpp/build/bin/llama-bench"))
    gguf = arguments.peers / f"{SHAPE}-layer.gguf"
    if not programs or not gguf.exists():
        sys.exit(f"no llama-bench or no {gguf.name} under {arguments.peers}: bench/peers/setup gets them")
    print("| context | keye sparse, layer | of it attention | keye dense | llama.cpp | sparse is | dense is |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for context in arguments.contexts:
        before = keye_ms(arguments.keye, context, arguments.threads)
        theirs = llama_ms(programs[-1], gguf, context, arguments.threads)
        after = keye_ms(arguments.keye, context, arguments.threads)
        ours = {kind: {part: min(before[kind][part], after[kind][part]) for part in ("layer", "attention")}
                for kind in ("dense", "sparse")}
        print(f"| {context} | {ours['sparse']['layer']:.2f} ms | {ours['sparse']['attention']:.2f} ms | "
              f"{ours['dense']['layer']:.2f} ms | {theirs:.2f} ms | {theirs / ours['sparse']['layer']:.2f} x | "
              f"{theirs / ours['dense']['layer']:.2f} x |", flush=True)
    limits = before["limits"]
    print(f"\n{before['machine']['processor']}, {arguments.threads} threads: memory read {limits['gb_per_s']:.1f} GB/s, bf16 multiply-add "
          f"{limits['flops'] / 1e9:.0f} GFLOP/s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
