#!/usr/bin/env python3
"""What a thousand idle streams cost, and whether others are served beside them.

Idle are, one after the other: connections without a request ("connected"), streams that wait for their turn and get pings
("waiting"), streams whose readers read nothing ("unread"). Beside each kind, 64 clients ask one thing after another, and all
must get their replies.

usage: bench/reliability/idle_streams.py [--streams N] [--active N] [--seconds S] [--limit-mb MB]"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import threading
import time

from storm import check_whole

from serving import Server, sse_request  # storm.py knows where it is

CHAT = "/v1/chat/completions"
KV_TOKENS = 400_000  # room for what a thousand unread replies have got to
# A reply of moderate length; one that waits behind all others (and is short, should it find a free place after all); one with
# kilobytes for each token.
ASK = {"messages": [{"role": "user", "content": "Who are you?"}], "ignore_eos": True, "max_tokens": 16, "n": 1, "stream": True}
WAITING = {**ASK, "priority": -1000}
UNREAD = {**ASK, "max_tokens": 30000, "logprobs": True, "top_logprobs": 20}


async def active(port: int, clients: int, seconds: float) -> tuple[int, list[float]]:
    """Clients that ask again and again. Replies, and the times to their first tokens."""
    end = time.monotonic() + seconds
    first_s = []

    async def ask_again():
        done = 0
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            start = time.monotonic()
            writer.write(sse_request(CHAT, ASK, "Connection: close\r\n"))
            response = b""
            while b"data: " not in response:
                line = await reader.readline()
                assert line, response
                response += line
            first_s.append(time.monotonic() - start)
            response += await asyncio.wait_for(reader.read(-1), 300)
            check_whole(ASK, response)
            writer.close()
            done += 1
        return done

    return sum(await asyncio.gather(*(ask_again() for _ in range(clients)))), first_s


def connect(port: int, data: bytes = b"", receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", port))
    client.sendall(data)
    return client


def wait_for_quiet(server: Server):
    """Until no reply makes progress any more."""
    tokens = -1
    while (now := server.metrics()["keye_engine_generated_tokens_total"]) != tokens:
        tokens = now
        time.sleep(1)


def fill_cache(server: Server):
    """The KV cache is part of the model: all of it is used once, so that none of it counts as the streams'."""
    sentence = "the red circle is on the left. "
    text = sentence * (28_000 * 100 // server.post_ok("/tokenize", {"prompt": sentence * 100})["count"])
    for i in range(KV_TOKENS // 28_000 + 2):
        server.chat(f"{i}: {text}", max_tokens=1, timeout=600)


def measure(kind: str, options) -> dict:
    with Server("--write-timeout", 3600, "--idle-timeout", 3600, "--ping-interval", 2, "--max-running-requests", options.active,
                "--max-queued-requests", options.streams + 2 * options.active, "--max-total-tokens", KV_TOKENS) as server:
        asyncio.run(active(server.port, options.active, 2))  # as large as the active ones make it
        fill_cache(server)
        before = server.resident_mb()
        result = {}
        # Who waits for a turn must find all places taken all the time: twice as many ask then.
        clients = options.active * (2 if kind == "waiting" else 1)
        def serve():
            result["served"], result["first_s"] = asyncio.run(active(server.port, clients, options.seconds))
        others = threading.Thread(target=serve)
        if kind == "waiting":
            others.start()
            server.wait_until(lambda: server.metrics()["keye_num_queue_reqs"] >= options.active // 2, "all places are taken")
        data = {"connected": b"", "waiting": sse_request(CHAT, WAITING), "unread": sse_request(CHAT, UNREAD)}[kind]
        idle = [connect(server.port, data, 4096 if kind == "unread" else 0) for _ in range(options.streams)]
        if kind == "unread":
            wait_for_quiet(server)
        if kind != "waiting":
            others.start()
        peak, waiting = 0.0, []
        while others.is_alive():
            others.join(0.5)
            now = server.metrics()
            waiting.append(int(now["keye_num_queue_reqs"]))
            peak = max(peak, server.resident_mb() - before)
        connected = int(now["keye_connections"]) - 1
        for client in idle:
            client.close()
        server.wait_until_idle()
        first_ms = sorted(seconds * 1000 for seconds in result["first_s"])
        return {"connected": connected, "waiting": statistics.median(waiting), "resident_mb": round(peak, 1),
                "kb_each": round(peak * 1024 / options.streams, 1), "replies_beside": result["served"],
                "ttft_p50_ms": round(statistics.median(first_ms)), "ttft_p99_ms": round(first_ms[int(len(first_ms) * 0.99)]),
                "resident_mb_after": round(server.resident_mb() - before, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--active", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--limit-mb", type=float, default=200)
    options = parser.parse_args()
    worst = 0.0
    for kind in ("connected", "waiting", "unread"):
        report = measure(kind, options)
        print(f"{kind}: {json.dumps(report)}", flush=True)
        worst = max(worst, report["resident_mb"])
        if report["connected"] < options.streams or report["replies_beside"] < options.active:
            print("FAILED: not all were connected, or not all others served")
            return 1
    print(f"at most {worst:.1f} MB for {options.streams} idle streams; the limit is {options.limit_mb:g} MB")
    return 0 if worst <= options.limit_mb else 1


if __name__ == "__main__":
    sys.exit(main())
