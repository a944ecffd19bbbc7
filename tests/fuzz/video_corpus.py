#!/usr/bin/env python3
"""Spoils clips and looks what becomes of whoever decodes them.

Ten seeds (every codec and container that is read), each spoiled in the same way whenever this runs: cut off, bits flipped, pieces
overwritten, moved or left out, sizes of boxes and chunks set to extremes. Each must end in frames or in a clear error, and
the program that decoded them must be as before: descriptors, memory, processes.

  tests/fuzz/video_corpus.py build/release/src/media/clip_tool              through the decoder
  tests/fuzz/video_corpus.py CLIP_TOOL --server http://127.0.0.1:30000 --pid PID --model MODEL
                                                                            through a server, as video_url
"""
import argparse
import base64
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

VPX = ["deadline=realtime", "cpu-used=8", "b_frames=0"]
SEEDS = [
    ["format=mp4", "codec=libx264"],
    ["format=mp4", "codec=libx264", "mux_movflags=frag_keyframe+empty_moov", "rotation=90"],
    ["format=matroska", "codec=libx264", "width=127", "height=95", "pixels=yuv444p"],
    ["format=mpegts", "codec=libx264"],
    ["format=mp4", "codec=libx265", "x265-params=log-level=none:pools=none"],
    ["format=webm", "codec=libvpx", *VPX],
    ["format=webm", "codec=libvpx-vp9", *VPX],
    ["format=mp4", "codec=libaom-av1", "cpu-used=8", "usage=realtime", "b_frames=0"],
    ["format=avi", "codec=mpeg4"],
    ["format=gif", "codec=gif", "pixels=gray", "b_frames=0"],
]
CLEAR = {"corrupt_data", "unsupported", "too_large", "deadline"}


def spoiled(clip, draw):
    """One of the ways in which clips break, or several."""
    data = bytearray(clip)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        way = draw.randrange(6)
        # Headers decide more than pictures do: half of all places lie in the first kilobyte or the last.
        at = draw.choice([draw.randrange(len(data)), draw.randrange(min(1024, len(data))),
                          max(0, len(data) - 1 - draw.randrange(1024))])
        if way == 0:
            del data[max(1, at):]
        elif way == 1:
            for _ in range(draw.choice([1, 4, 64])):
                place = draw.randrange(len(data))
                data[place] ^= 1 << draw.randrange(8)
        elif way == 2:
            data[at:at + 16] = draw.randbytes(min(16, len(data) - at))
        elif way == 3:
            del data[at:at + draw.choice([1, 4, 188, 1000])]
        elif way == 4:
            data[at:at] = data[draw.randrange(len(data)):][:draw.choice([4, 188, 1000])]
        else:
            data[at:at + 4] = draw.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"])
        data = data or bytearray(b"\0")
    return bytes(data)


def state(pid):
    """Descriptors, memory in MB and child processes."""
    children = pathlib.Path(f"/proc/{pid}/task")
    ids = [child for task in children.iterdir() for child in (task / "children").read_text().split()]
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "memory_mb": pages * os.sysconf("SC_PAGESIZE") / 1e6,
            "children": len(ids)}


def settled(pid):
    """When nothing changes: a worker that was started ahead may be on its way."""
    now, still = state(pid), 0
    for _ in range(100):
        time.sleep(0.1)
        last, now = now, state(pid)
        same = now["descriptors"] == last["descriptors"] and now["children"] == last["children"]
        still = still + 1 if same else 0
        if still >= 5:
            break
    return now


class Decoder:
    """clip_tool check: a line for a path."""

    def __init__(self, tool, folder):
        self.path = folder / "clip"
        self.process = subprocess.Popen([tool, "check"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def outcome(self, clip):
        self.path.write_bytes(clip)
        self.process.stdin.write(f"{self.path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"clip_tool ended: {self.process.wait()}")
        answer = json.loads(line)
        return answer["code"], answer["message"]


class Server:
    def __init__(self, url, pid, model):
        self.url, self.pid, self.model = url, pid, model

    def outcome(self, clip):
        url = "data:video/mp4;base64," + base64.b64encode(clip).decode()
        content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What moves?"}]
        body = {"model": self.model, "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                reply.read()
                return "ok", ""
        except urllib.error.HTTPError as refusal:
            text = refusal.read().decode()
            return ("corrupt_data" if refusal.code == 400 else f"HTTP {refusal.code}"), text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip_tool")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server")
    parser.add_argument("--pid", type=int, help="the server's process")
    parser.add_argument("--model", default="keye-nano")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for clips with outcomes that must not be")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    bad = []
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        seeds = []
        for words in SEEDS:
            subprocess.run([arguments.clip_tool, "make", folder / "seed", "frames=24", *words], check=True)
            seeds.append((folder / "seed").read_bytes())
        target = (Server(arguments.server, arguments.pid, arguments.model) if arguments.server
                  else Decoder(arguments.clip_tool, folder))
        for clip in seeds:
            code, message = target.outcome(clip)
            if code != "ok":
                sys.exit(f"a whole clip gives {code}: {message}")
        before, slowest = None, 0
        for i in range(arguments.count):
            if i == arguments.count // 10:
                before = settled(target.pid)  # whatever grows once has grown
            clip = spoiled(seeds[i % len(seeds)], draw)
            begin = time.monotonic()
            code, message = target.outcome(clip)
            slowest = max(slowest, time.monotonic() - begin)
            counts[code] += 1
            if "died" in message or "sandbox" in message:
                counts["(decoder ended by it)"] += 1
            if code != "ok" and (code not in CLEAR or not message):
                bad.append((i, code, message))
                if arguments.keep:
                    (arguments.keep / f"clip-{arguments.seed}-{i}").write_bytes(clip)
        for clip in seeds:
            if target.outcome(clip)[0] != "ok":
                bad.append((-1, "a whole clip is refused after the spoiled ones", ""))
        after = settled(target.pid)
    print(f"{arguments.count} clips: {dict(counts)}; the slowest took {slowest:.1f} s")
    print(f"before {before}\nafter  {after}")
    for row in bad:
        print("must not be:", *row)
    kept = (before is None or (after["descriptors"] <= before["descriptors"] and after["children"] <= before["children"]
                               and after["memory_mb"] < before["memory_mb"] + 32))
    if not kept:
        print("something is left behind")
    return 1 if bad or not kept else 0


if __name__ == "__main__":
    sys.exit(main())
