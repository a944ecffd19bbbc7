#!/usr/bin/env python3
"""Writes tests/golden/preprocess/frame_resizes.json: what torch's antialiased bilinear resize makes of patterns of many sizes.

Rows are [height, width, new height, new width, SHA-256 of the RGB bytes]; the pattern is that of src/media/resize_test.cc.
"""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "tests/golden/preprocess/frame_resizes.json"
FIXED = [(1080, 1920, 168, 280), (720, 1280, 252, 448), (480, 640, 476, 644), (80, 120, 168, 252), (168, 252, 140, 224),
         (100, 37, 100, 28), (37, 100, 28, 100), (28, 28, 280, 280), (1, 1, 28, 28), (3, 500, 28, 28), (500, 3, 28, 28)]


def pattern(height: int, width: int) -> np.ndarray:
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return (y * 7 + x * 13 + c * 29 + y * x).astype(np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(image[None]).permute(0, 3, 1, 2).contiguous()
    out = torch.nn.functional.interpolate(tensor, [height, width], mode="bilinear", antialias=True)
    return out[0].permute(1, 2, 0).contiguous().numpy()


def main():
    draw = random.Random(7)
    sizes = FIXED + [tuple(draw.randint(1, 160) for _ in range(4)) for _ in range(60)]
    rows = [[*size, hashlib.sha256(resized(pattern(*size[:2]), *size[2:]).tobytes()).hexdigest()] for size in sizes]
    OUT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
