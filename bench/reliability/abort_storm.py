#!/usr/bin/env python3
"""Ten thousand connections, half of which leave at a random moment: afterwards the server holds what it held before.

usage: bench/reliability/abort_storm.py [--clients N] [--at-once N] [--seed N] [-- FLAGS OF keye serve]"""

import argparse
import asyncio
import sys
import time

from storm import failures, state, storm

from serving import Server  # storm.py knows where it is

GROWTH_MB = 16  # that the allocator may keep


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of keye serve")
    options = parser.parse_args()
    with Server(*(options.flags or ["--max-total-tokens", "65536"])) as server:
        # The same once before, smaller: buffers and pools have the size that this load wants, and all of the KV cache, which
        # must not be large for that, was used.
        warm = asyncio.run(storm(server.port, options.clients // 10, options.seed + 1, options.at_once))
        before = state(server)
        start = time.monotonic()
        ways = asyncio.run(storm(server.port, options.clients, options.seed, options.at_once))
        seconds = time.monotonic() - start
        after = state(server)
    for way, count in sorted(ways.items()):
        print(f"{count:7} {way}")
    print(f"{sum(ways.values())} clients in {seconds:.0f} s, {options.at_once} at a time, seed {options.seed}")
    for name, value in before.items():
        print(f"{name:12} before {value:8} after {after[name]:8}")
    same = all(before[name] == after[name] for name in before if name != "resident_mb")
    grown = after["resident_mb"] - before["resident_mb"]
    failed = failures(ways) + failures(warm)
    if failed or not same or grown > GROWTH_MB:
        print(f"FAILED: {len(failed)} clients, {'same' if same else 'other'} resources, {grown:+.1f} MB")
        return 1
    print(f"as before; {grown:+.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
