"""Clients of `keye serve` that come and go: what abort_storm.py, soak.py and tests/e2e/serve_storm_test.py have in common.

A client is one connection with one request. Half of them leave at a random moment: before, in or behind the request, while
a picture or a prompt is worked on, between tokens; with an end, a reset, or only half of it. The others must get all of
their reply."""

import asyncio
import base64
import collections
import json
import random
import socket
import struct
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

NANO = ROOT / "models/keye-nano"
PICTURES = ["data:image/png;base64," + base64.b64encode((NANO / name).read_bytes()).decode() for name in ("demo.png", "chart.png")]
PATIENCE_S = 300


def request(random_: random.Random, leaves: bool) -> tuple[str, dict]:
    """Path and body. One that is to be left would take long."""
    body = {"max_tokens": 30000 if leaves else random_.randrange(1, 24), "stream": random_.random() < 0.7, "seed": random_.randrange(1000)}
    body |= {"temperature": random_.choice((0, 1)), "ignore_eos": leaves or random_.random() < 0.5, "n": random_.choice((1, 1, 1, 3))}
    words = " ".join(f"word {random_.randrange(100)}" for _ in range(random_.choice((1, 1, 10, 100))))
    if random_.random() < 0.2:
        return "/v1/completions", body | {"prompt": words}
    content = [{"type": "text", "text": words}]
    if random_.random() < 0.2:
        content.append({"type": "image_url", "image_url": {"url": random_.choice(PICTURES)}})
    return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": content}]}


def check_whole(body: dict, response: bytes):
    """The response has all of it: one end for each of its replies."""
    head, _, text = response.partition(b"\r\n\r\n")
    assert b" 200 OK" in head, response[:300]
    ends = collections.Counter()
    if body["stream"]:
        events = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")]
        assert events[-1] == b"[DONE]", response[-300:]
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    else:
        choices = json.loads(text)["choices"]
    for choice in choices:
        ends[choice["index"]] += choice["finish_reason"] in ("stop", "length")
    assert ends == {index: 1 for index in range(body["n"])}, (ends, response[-300:])


class Client:
    def __init__(self, port: int, seed: int, timeout_s: float = PATIENCE_S):
        self.port = port
        self.random = random.Random(seed)
        self.leaves = self.random.random() < 0.5
        self.timeout_s = timeout_s

    async def run(self) -> str:
        """What became of it."""
        path, body = request(self.random, self.leaves)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            if self.leaves:
                return "left " + await self.leave(reader, writer, head, data)
            writer.write(head + data)
            check_whole(body, await asyncio.wait_for(reader.read(-1), self.timeout_s))
            return "whole picture" if "image_url" in str(body) else "whole"
        finally:
            writer.close()

    async def leave(self, reader, writer, head: bytes, data: bytes) -> str:
        moment = self.random.choice(("unsaid", "in header", "in body", "at once", "in a moment", "in a while", "after tokens"))
        if moment == "in header":
            writer.write(head[:self.random.randrange(1, len(head))])
        elif moment == "in body":
            writer.write(head + data[:self.random.randrange(len(data))])
        elif moment != "unsaid":
            writer.write(head + data)
        if moment == "in a moment":
            await asyncio.sleep(self.random.random() * 0.02)
        elif moment == "in a while":
            await asyncio.sleep(self.random.random())
        elif moment == "after tokens" and b'"stream": true' in data:
            for _ in range(self.random.randrange(1, 30)):
                if not await asyncio.wait_for(reader.readline(), self.timeout_s):
                    break
        way = self.random.choice(("end", "reset", "half"))
        if way == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif way == "half":
            writer.write_eof()
            try:
                await asyncio.wait_for(reader.read(-1), self.timeout_s)  # the server ends the rest
            except ConnectionError:
                pass
        return moment


async def storm(port: int, clients: int, seed: int, at_once: int) -> collections.Counter:
    """What became of them, by kind; errors begin with "failed"."""
    ways: collections.Counter = collections.Counter()
    turns = iter(range(clients))

    async def one_after_another():
        for turn in turns:
            try:
                ways[await Client(port, seed * 1_000_003 + turn).run()] += 1
            except (OSError, AssertionError, asyncio.TimeoutError) as error:
                ways[f"failed: client {turn} of seed {seed}: {type(error).__name__} {error}"[:500]] += 1

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return ways


def failures(ways: collections.Counter) -> list[str]:
    return [way for way in ways if way.startswith("failed")]


def threads(server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def state(server) -> dict:
    """What a server holds when nothing is asked of it, and nothing kept."""
    server.wait_until_idle()
    server.post_ok("/flush_cache", {})
    server.wait_until(lambda: server.metrics()["keye_kv_pages_kept"] == 0, "the cache is empty")
    server.wait_until(lambda: server.metrics()["keye_connections"] == 1, "only the question for this is connected")
    now = server.metrics()
    descriptors = []
    for _ in range(20):  # the last questions' connections may still be being closed
        descriptors.append(server.descriptors())
        time.sleep(0.02)
    return {"descriptors": min(descriptors), "threads": threads(server), "resident_mb": round(server.resident_mb(), 1),
            "pages_used": int(now["keye_kv_pages_used"]), "pages_kept": int(now["keye_kv_pages_kept"]),
            "requests": int(sum(now[f"keye_num_{kind}_reqs"] for kind in ("running", "queue", "preparing")))}
