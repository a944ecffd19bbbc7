#!/usr/bin/env python3
"""Decoding a long clip beside the ffmpeg program (Debian: ffmpeg), which must be installed.

Makes MINUTES of 1080p H.264 at 30 frames a second, then has both pick two frames a second and scale them down to raw RGB,
in turns, on the same cores; prints seconds, processor seconds, peak memory and the ratio of the medians.

  bench/video/run.py build/release/src/media/clip_tool [--minutes 60] [--rounds 3] [--preset ultrafast]
"""
import argparse
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

FPS = 30
STEP = FPS // 2


def make_clip(path, minutes, preset):
    """One minute is encoded and then repeated: headers, times and length are those of the whole."""
    minute = path.with_name("minute.mp4")
    quiet = ["ffmpeg", "-v", "error", "-y"]
    subprocess.run([*quiet, "-f", "lavfi", "-i", f"testsrc2=s=1920x1080:d=60:r={FPS}", "-pix_fmt", "yuv420p",
                    "-c:v", "libx264", "-preset", preset, "-crf", "30", minute], check=True)
    subprocess.run([*quiet, "-stream_loop", str(minutes - 1), "-i", minute, "-c", "copy", path], check=True)
    minute.unlink()


def measure(command):
    """Wall seconds, processor seconds and peak MB of the largest process, and what it said."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]}: {said}")
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip_tool")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="ultrafast", help="of x264: slower ones leave frames that nothing refers to")
    parser.add_argument("--height", type=int, default=168)
    parser.add_argument("--width", type=int, default=280)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = pathlib.Path(folder) / "clip.mp4"
        make_clip(clip, arguments.minutes, arguments.preset)
        print(f"{arguments.minutes} min of 1080p, {clip.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        size = f"{arguments.width}:{arguments.height}"
        theirs = ["ffmpeg", "-v", "error", "-i", clip, "-vf", f"select=not(mod(n\\,{STEP})),scale={size}:flags=bilinear",
                  "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        ours = [arguments.clip_tool, "time", clip, str(STEP), str(arguments.height), str(arguments.width)]
        walls = {"ffmpeg": [], "keye": []}
        for _ in range(arguments.rounds):
            for name, command in (("ffmpeg", theirs), ("keye", ours)):
                wall, busy, peak, said = measure(command)
                walls[name].append(wall)
                both = re.search(r"peak_mb (\S+) worker_peak_mb (\S+)", said)
                memory = f"{both[1]} MB + worker {both[2]} MB" if both else f"{peak:.1f} MB"
                print(f"{name:7} {wall:8.2f} s, {busy:8.2f} s of processors, peak {memory}", flush=True)
        ratio = statistics.median(walls["keye"]) / statistics.median(walls["ffmpeg"])
        print(f"keye / ffmpeg: {ratio:.2f}")


if __name__ == "__main__":
    main()
