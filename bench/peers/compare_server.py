#!/usr/bin/env python3
"""Measures `keye serve` beside llama.cpp's server on this machine, in turns: the same shape and bits (random weights), the
same load from `keye bench serve`, at several numbers of clients. Prints a Markdown table; JSON with --out.

bench/peers/setup gets llama.cpp and writes the weights. Exit code: 0, or 1 if a program failed.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEYE, LLAMA = "keye serve", "llama-server"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server that is started for one measurement and stopped after it."""

    def __init__(self, name: str, command: list[str], log: Path):
        self.name, self.command, self.log = name, command, log

    def __enter__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*self.command, "--port", str(self.port)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise SystemExit(f"{self.name} did not start; see {self.log}") from None
                time.sleep(0.2)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def load(keye: Path, url: str, clients: int, requests: int, options) -> dict:
    command = [str(keye), "bench", "serve", "--base-url", url, "--concurrency", str(clients), "--requests", str(requests),
               "--prompt-words", str(options.prompt), "--generate", str(options.generate), "--ignore-eos", "--temperature", "0",
               "--warmup", str(clients), "--timeout", "1800", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the folder of bench/peers/setup")
    parser.add_argument("--keye", type=Path, default=ROOT / "build/release/keye")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt", type=int, default=24, help="words of each prompt")
    parser.add_argument("--generate", type=int, default=48, help="tokens of each reply")
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    options = parser.parse_args()
    llama = next(options.peers.glob("src/*/vendor/llama.cpp/build/bin/llama-server"), None)
    if llama is None:
        raise SystemExit(f"{options.peers}: no llama-server; run bench/peers/setup first")

    most = max(options.clients)
    context = most * 256
    servers = [
        Server(KEYE, [str(options.keye), "serve", "--model-path", str(options.peers / "qwen3-0.6b"), "--threads", str(options.threads),
                      "--max-running-requests", str(most), "--max-total-tokens", str(context)], options.peers / "keye-serve.log"),
        Server(LLAMA, [str(llama), "-m", str(options.peers / "qwen3-0.6b-words.gguf"), "-t", str(options.threads), "-tb",
                       str(options.threads), "-np", str(most), "-c", str(context), "--no-webui"], options.peers / "llama-server.log"),
    ]
    rounds = []
    for number in range(1, options.rounds + 1):
        for clients in options.clients:
            for server in servers:
                with server:
                    report = load(options.keye, server.url, clients, options.requests * clients, options)
                rounds.append({"round": number, "clients": clients, "server": server.name, "report": report})
                print(f"round {number}  {clients} clients  {server.name}: {report['output_tokens_per_s']:.1f} tokens/s, "
                      f"TTFT p99 {report['ttft_ms']['p99']:.0f} ms", file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(rounds, indent=1))

    def of(clients: int, server: str, value) -> list[float]:
        return [value(r["report"]) for r in rounds if (r["clients"], r["server"]) == (clients, server)]

    def throughput(report):
        return report["output_tokens_per_s"]

    def first(report):
        return report["ttft_ms"]["p99"]

    def gap(report):
        return report["itl_ms"]["p50"]

    print("| clients | keye, tokens/s | llama-server, tokens/s | keye is | TTFT p99, ms: keye | llama-server | between tokens p50, ms: keye | llama-server |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for clients in options.clients:
        ours, theirs = max(of(clients, KEYE, throughput)), max(of(clients, LLAMA, throughput))
        ratio = statistics.median(a / b for a, b in zip(of(clients, KEYE, throughput), of(clients, LLAMA, throughput)))
        print(f"| {clients} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} x | {min(of(clients, KEYE, first)):.0f} | {min(of(clients, LLAMA, first)):.0f} "
              f"| {min(of(clients, KEYE, gap)):.1f} | {min(of(clients, LLAMA, gap)):.1f} |")


if __name__ == "__main__":
    main()
