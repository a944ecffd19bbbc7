"""A small storm of clients of which half leave at a random moment. The large one is bench/reliability/abort_storm.py."""

import asyncio
import os
import sys
import unittest

from program import ROOT
from serving import Server

sys.path.insert(0, str(ROOT / "bench/reliability"))
from storm import failures, state, storm  # pylint: disable=wrong-import-position

CLIENTS = 300
SEED = int(os.environ.get("KEYE_STORM_SEED", "1"))


class Storm(unittest.TestCase):
    def test_pages_descriptors_and_memory_are_as_before(self):
        # Few pages and places, so that requests are dropped while they wait and after they were preempted, too.
        with Server("--max-running-requests", 16, "--max-total-tokens", 4096) as server:
            asyncio.run(storm(server.port, CLIENTS // 2, SEED + 1, 64))
            before = state(server)
            ways = asyncio.run(storm(server.port, CLIENTS, SEED, 64))
            after = state(server)
            self.assertEqual(failures(ways), [])
            self.assertEqual(sum(ways.values()), CLIENTS)
            self.assertGreater(ways["whole"] + ways["whole picture"], CLIENTS // 3)
            self.assertGreater(sum(count for way, count in ways.items() if way.startswith("left")), CLIENTS // 3)
            self.assertLess(after.pop("resident_mb") - before.pop("resident_mb"), 16)
            self.assertEqual(after, before)
            self.assertEqual((after["pages_used"], after["pages_kept"], after["requests"]), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
