#!/usr/bin/env python3
"""Measures keye beside PyTorch and llama.cpp on this machine, in turns, and prints the comparison as a Markdown table.

Every round runs keye, then each peer, on one measurement after the other, so that a machine that changes its speed
changes it for all. Needs nothing but Python; bench/peers/setup gets the peers. A peer that is not there is said to be
missing. Exit code: 0, or 1 if a program failed.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = "qwen3-0.6b"
KEYE, TORCH, LLAMA = "keye", "PyTorch", "llama.cpp"


@dataclass(frozen=True)
class Measurement:
    """`kind` is prefill, decode (both in tokens a second) or vision (seconds). Sizes in tokens; `image` is HxW."""

    name: str
    kind: str
    prompt: int = 8
    generate: int = 1
    image: str = ""

    @property
    def title(self) -> str:
        if self.kind == "prefill":
            return f"{MODEL}, prefill of {self.prompt} tokens"
        if self.kind == "decode":
            return f"{MODEL}, decode at context {self.prompt} to {self.prompt + self.generate}"
        return f"Keye vision encoder, {self.image} pixels"

    @property
    def unit(self) -> str:
        return "s" if self.kind == "vision" else "tokens/s"


MEASUREMENTS = [
    Measurement("prefill", "prefill", prompt=512),
    Measurement("decode-short", "decode", prompt=32, generate=64),
    Measurement("decode-long", "decode", prompt=4096, generate=16),
    Measurement("vision", "vision", image="1008x1008"),
]
SMOKE = [
    Measurement("prefill", "prefill", prompt=16),
    Measurement("decode-short", "decode", prompt=8, generate=2),
    Measurement("decode-long", "decode", prompt=80, generate=2),
    Measurement("vision", "vision", image="112x112"),
]


class Failed(Exception):
    """A program ended badly; the text says which and how."""


def processor_seconds() -> tuple[float, float]:
    """Seconds that all processors have been busy since the machine started, and that our own programs took."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


@dataclass
class Runner:
    """Runs programs one at a time and keeps what is needed to judge how quiet the machine was."""

    threads: int
    wall: float = 0.0
    others: float = 0.0  # processor seconds of everybody else meanwhile
    commands: list[str] = field(default_factory=list)

    def json_of(self, command: list[str]):
        self.commands.append(" ".join(command))
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads), HF_HUB_OFFLINE="1")
        busy, own = processor_seconds()
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
        self.wall += time.perf_counter() - start
        busy_after, own_after = processor_seconds()
        self.others += max(0.0, (busy_after - busy) - (own_after - own))
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise Failed(f"`{' '.join(command)}` ended with {done.returncode}: {' / '.join(last)}")
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise Failed(f"`{' '.join(command)}` did not print JSON: {error}") from None

    def share_of_others(self) -> float:
        """Of the processors, over the time measured."""
        return self.others / (self.wall * os.cpu_count()) if self.wall else 0.0


class Keye:
    def __init__(self, program: Path, runner: Runner):
        self.program, self.runner = program, runner
        self.bandwidth = 0.0  # GB/s
        self.peak = 0.0  # operations a second
        self.machine: dict = {}

    def measure(self, m: Measurement) -> dict:
        """{"value", and "rate": GB/s or operations a second, that a limit bounds}"""
        command = [str(self.program), "bench", "--dtype", "bf16", "--batch", "1", "--threads", str(self.runner.threads), "--json"]
        command += ["--prompt", str(m.prompt), "--generate", str(m.generate)]
        if m.kind == "vision":
            command += ["--shape", "keye-vision", "--image", m.image, "--repeat", "1"]
        else:
            command += ["--shape", MODEL, "--repeat", "1" if m.name == "decode-long" else "3"]
        report = self.runner.json_of(command)
        # Whatever disturbs a limit's measurement lowers it, so the best one seen in the whole run is nearest the truth.
        self.bandwidth = max(self.bandwidth, report["limits"]["gb_per_s"])
        self.peak = max(self.peak, report["limits"]["flops"])
        self.machine = report["machine"]
        if m.kind == "vision":
            return {"value": report["vision"]["seconds"], "rate": report["vision"]["flops"]}
        if m.kind == "prefill":
            return {"value": report["prefill"]["tokens_per_s"], "rate": report["prefill"]["flops"]}
        return {"value": report["decode"]["tokens_per_s"], "rate": report["decode"]["gb_per_s"]}

    def share(self, m: Measurement, rate: float) -> str:
        if m.kind == "decode":
            return f"{rate:.1f} GB/s, {100 * rate / self.bandwidth:.0f} % of the memory bandwidth"
        return f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / self.peak:.0f} % of the bf16 peak"


class Torch:
    """transformers with SDPA for the decoder, plain PyTorch with SDPA for the vision encoder."""

    def __init__(self, python: Path, runner: Runner):
        self.python, self.runner = python, runner
        self.version = ""

    def measure(self, m: Measurement) -> dict:
        if m.kind == "vision":
            command = [str(HERE / "torch_vision.py"), "--image", m.image]
        else:
            command = [str(HERE / "torch_decoder.py"), m.kind, "--prompt", str(m.prompt)]
            if m.kind == "decode":
                command += ["--generate", str(m.generate)]
        report = self.runner.json_of([str(self.python), *command, "--threads", str(self.runner.threads)])
        for name, version in report["versions"].items():
            if name not in self.version:
                self.version += f"{', ' if self.version else ''}{name} {version}"
        return {"value": report["seconds" if m.kind == "vision" else "tokens_per_s"]}


class Llama:
    """llama-bench on a BF16 file. Each measurement first tries the options that change speed here, repacked weights and
    flash attention, and goes on with the best combination."""

    def __init__(self, program: Path, gguf: Path, runner: Runner):
        self.program, self.gguf, self.runner = program, gguf, runner
        self.version = ""
        self.best: dict[str, dict[str, str]] = {}  # measurement -> options
        known = subprocess.run([str(program), "--help"], capture_output=True, text=True).stdout
        self.tried = {"--repack": "0,1"} if "--repack" in known else {}
        self.tried["-fa"] = "0,1"

    def measure(self, m: Measurement) -> dict | None:
        if m.kind == "vision":
            return None
        options = self.best.get(m.name) or dict(self.tried)
        if m.name not in self.best and m.name == "decode-long" and "decode-short" in self.best:
            options.update({k: v for k, v in self.best["decode-short"].items() if k == "--repack"})  # 4,096 tokens take long
        command = [str(self.program), "-m", str(self.gguf), "-t", str(self.runner.threads), "-o", "json"]
        if m.kind == "prefill":
            command += ["-p", str(m.prompt), "-n", "0", "-r", "3"]
        else:
            command += ["-p", "0", "-n", str(m.generate), "-d", str(m.prompt), "-r", "1" if m.name == "decode-long" else "3"]
        for name, value in options.items():
            command += [name, value]
        runs = self.runner.json_of(command)
        best = max(runs, key=lambda run: statistics.median(run["samples_ts"]))
        self.best[m.name] = {"-fa": str(int(best["flash_attn"]))}
        if "--repack" in self.tried:
            self.best[m.name]["--repack"] = str(int(best["repack"]))
        self.version = f"build {best['build_commit']}"
        return {"value": statistics.median(best["samples_ts"]), "options": self.best[m.name]}


def best_of(m: Measurement, samples: list[dict]) -> dict:
    return (min if m.kind == "vision" else max)(samples, key=lambda sample: sample["value"])


def figure(m: Measurement, samples: list[dict]) -> str:
    """The best round, and the range of all."""
    digits = 1 if m.kind == "prefill" else 2
    values = [sample["value"] for sample in samples]
    text = f"{best_of(m, samples)['value']:.{digits}f} {m.unit}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(m: Measurement, ours: list[dict], theirs: list[dict]) -> float:
    """How many times as fast keye is."""
    mine, other = best_of(m, ours)["value"], best_of(m, theirs)["value"]
    return other / mine if m.kind == "vision" else mine / other


def table(results: dict, keye: Keye, absent: dict[str, str]) -> list[str]:
    lines = [
        f"| | keye | of the limit | {TORCH} | keye is | {LLAMA} | keye is |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m, by_program in results.items():
        ours = by_program[KEYE]
        cells = [m.title]
        cells += [figure(m, ours), keye.share(m, best_of(m, ours)["rate"])] if ours else ["failed", ""]
        for name in (TORCH, LLAMA):
            theirs = by_program.get(name)
            if theirs:
                cells += [figure(m, theirs), f"{ratio(m, ours, theirs):.2f} x" if ours else ""]
            elif name in absent:
                cells += ["missing", ""]
            elif name == LLAMA and m.kind == "vision":
                cells += ["has no such encoder", ""]
            else:
                cells += ["failed", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def find_peers(arguments, runner: Runner) -> tuple[dict, dict[str, str]]:
    """The peers that are there, and why the others are not."""
    found, absent = {}, {}
    root = arguments.peers
    python = root / "venv/bin/python"
    if python.exists():
        found[TORCH] = Torch(python, runner)
    else:
        absent[TORCH] = f"{python} does not exist"
    programs = sorted(root.glob("src/llama_cpp_python-*/vendor/llama.cpp/build/bin/llama-bench"))
    gguf = root / f"{MODEL}-bf16.gguf"
    if programs and gguf.exists():
        found[LLAMA] = Llama(programs[-1], gguf, runner)
    elif programs:
        absent[LLAMA] = f"{gguf} does not exist"
    else:
        absent[LLAMA] = f"no llama-bench under {root}/src"
    return found, absent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder made by bench/peers/setup")
    parser.add_argument("--keye", type=Path, default=HERE.parents[1] / "build/release/keye", help="program to measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each program (default: 2)")
    parser.add_argument("--only", nargs="+", choices=[m.name for m in MEASUREMENTS], help="leave out the other measurements")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--out", type=Path, help="JSON file for every figure of every round")
    arguments = parser.parse_args()
    if not arguments.keye.exists():
        parser.error(f"{arguments.keye} does not exist; build it, or name it with --keye")

    runner = Runner(arguments.threads)
    keye = Keye(arguments.keye, runner)
    peers, absent = find_peers(arguments, runner)
    programs = {KEYE: keye, **peers}
    chosen = [m for m in (SMOKE if arguments.smoke else MEASUREMENTS) if not arguments.only or m.name in arguments.only]
    results = {m: {name: [] for name in programs} for m in chosen}
    failures: dict[str, str] = {}
    rounds = 1 if arguments.smoke else arguments.rounds
    start = time.perf_counter()
    for round_number in range(1, rounds + 1):
        for m in chosen:
            for name, program in programs.items():
                try:
                    sample = program.measure(m)
                except Failed as error:
                    failures[f"{name}, {m.name}"] = str(error)
                    continue
                if sample is not None:
                    results[m][name].append(sample)
                    print(f"round {round_number}  {m.title}  {name}: {sample['value']:.2f} {m.unit}", file=sys.stderr, flush=True)

    lines = table(results, keye, absent)
    lines += ["", f"{keye.machine.get('processor', platform.processor())}, {arguments.threads} threads, bf16, random weights; the best of "
              f"{rounds} round{'s' if rounds > 1 else ''} in turns, their range in brackets. Limits measured in the same run: memory read "
              f"{keye.bandwidth:.1f} GB/s, bf16 multiply-add {keye.peak / 1e9:.0f} GFLOP/s."]
    lines += [f"{name}: {program.version}." for name, program in peers.items() if program.version]
    if LLAMA in peers and peers[LLAMA].best:
        lines.append(f"{LLAMA}'s options, the best of all tried: " + "; ".join(
            f"{name} {' '.join(k + ' ' + v for k, v in options.items())}" for name, options in peers[LLAMA].best.items()) + ".")
    others = runner.share_of_others()
    lines.append(f"Other programs used {100 * others:.1f} % of the processors meanwhile" +
                 (": too much, measure again on a quiet machine." if others > 0.02 else "."))
    lines += [f"MISSING {name}: {why}. bench/peers/setup gets it." for name, why in absent.items()]
    lines += [f"FAILED {what}: {why}" for what, why in failures.items()]
    print("\n".join(lines))
    print(f"took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if arguments.out:
        record = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": keye.machine, "threads": arguments.threads,
            "limits": {"gb_per_s": keye.bandwidth, "flops": keye.peak}, "share_of_others": others,
            "versions": {name: program.version for name, program in peers.items()},
            "results": [{"name": m.name, "title": m.title, "unit": m.unit, "samples": by_program,
                         "times_as_fast": {name: ratio(m, by_program[KEYE], by_program[name])
                                           for name in peers if by_program[KEYE] and by_program[name]}}
                        for m, by_program in results.items()],
            "missing": absent, "failed": failures, "commands": runner.commands,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
