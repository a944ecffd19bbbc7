#!/usr/bin/env python3
"""Mixed load for half an hour: text and pictures, streams and whole replies, half of the clients leaving at random moments.
The server's memory must be flat once its caches are full.

usage: bench/reliability/soak.py [--minutes M] [--at-once N] [--seed N] [--out FILE.json] [-- FLAGS OF keye serve]"""

import argparse
import asyncio
import collections
import json
import sys
import time

from storm import failures, state, storm, threads

from serving import Server  # storm.py knows where it is

ROUND = 200  # clients between two looks at the server
FLAT_MB = 8  # that the last third's highest may be above the middle third's


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--at-once", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("flags", nargs="*", help="of keye serve")
    options = parser.parse_args()
    ways: collections.Counter = collections.Counter()
    samples = []
    flags = options.flags or ["--max-running-requests", "16", "--max-total-tokens", "32768"]
    with Server(*flags) as server:
        start = time.monotonic()
        shown = -60.0
        rounds = 0
        while (seconds := time.monotonic() - start) < options.minutes * 60:
            ways += asyncio.run(storm(server.port, ROUND, options.seed * 1000 + rounds, options.at_once))
            rounds += 1
            server.wait_until_idle()
            now = server.metrics()
            samples.append({"seconds": round(seconds), "clients": sum(ways.values()), "resident_mb": round(server.resident_mb(), 1),
                            "descriptors": server.descriptors(), "threads": threads(server),
                            "pages_used": int(now["keye_kv_pages_used"]), "pages_kept": int(now["keye_kv_pages_kept"])})
            if seconds - shown >= 60:
                shown = seconds
                print(json.dumps(samples[-1]), flush=True)
        end = state(server)
    third = len(samples) // 3
    middle, last = (max(sample["resident_mb"] for sample in part) for part in (samples[third:2 * third], samples[2 * third:]))
    descriptors = sorted({sample["descriptors"] for sample in samples[third:]})
    summary = {"minutes": options.minutes, "clients": sum(ways.values()), "failed": len(failures(ways)), "resident_mb_first": samples[0]["resident_mb"],
               "resident_mb_middle_third": middle, "resident_mb_last_third": last, "descriptors": descriptors, "end": end}
    print(json.dumps(summary))
    for way, count in sorted(ways.items()):
        print(f"{count:7} {way}")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump({"summary": summary, "samples": samples}, file)
    flat = last - middle <= FLAT_MB and end["pages_used"] == 0
    print("flat" if flat and not failures(ways) else "FAILED")
    return 0 if flat and not failures(ways) else 1


if __name__ == "__main__":
    sys.exit(main())
