"""Writes tests/golden/pictures: small pictures of every format and kind, and what PIL makes of them.

    python scripts/oracle/picture_samples.py --out tests/golden/pictures

expected.json: "pictures": {file: {"size_hw", "sha256" of the RGB bytes, "cuts_that_open": those multiples of 7 to which the
file may be cut with PIL still opening it}}; "resizes": [height, width, to height, to width, filter, sha256], of the picture whose byte at (y, x, c) is
(y * 7 + x * 13 + c * 29 + y * x) % 256. Needs pillow and numpy. Deterministic for a version of Pillow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from picture_differential import KINDS, expected, picture, save

PER_KIND = 14
BYTES_MAX = 6000


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def samples() -> dict[str, bytes]:
    files = {}
    for kind, make in KINDS.items():
        rng = random.Random(f"samples {kind}")
        found = 0
        while found < PER_KIND:
            data = make(rng)
            if len(data) > BYTES_MAX or isinstance(expected(data), str):
                continue
            suffix = kind.split()[0]
            files[f"{kind.replace(' ', '_')}_{found:02d}.{suffix}"] = data
            found += 1
    rng = random.Random("samples of other formats")
    rgb = picture(rng, "RGB")
    for format in ("AVIF", "ICO", "JPEG2000", "PPM", "TGA", "QOI", "DDS", "SGI"):
        files[f"other_{format.lower()}.bin"] = save(rgb, format)
    return files


def resizes() -> list:
    rng = random.Random("resizes")
    rows = []
    sizes = [(rng.randrange(1, 120), rng.randrange(1, 120), rng.randrange(1, 120), rng.randrange(1, 120)) for _ in range(120)]
    sizes += [(1, 1, 56, 56), (1, 200, 28, 196), (200, 1, 196, 28), (300, 400, 28, 28), (28, 28, 300, 400), (64, 48, 64, 90), (64, 48, 90, 48),
              (57, 245, 183, 234), (245, 57, 183, 234), (640, 480, 476, 644), (2, 700, 300, 3), (700, 2, 3, 300), (64, 48, 64, 48)]
    for i, (height, width, to_height, to_width) in enumerate(sizes):
        y, x, c = np.mgrid[0:height, 0:width, 0:3]
        image = Image.fromarray(((y * 7 + x * 13 + c * 29 + y * x) % 256).astype(np.uint8))
        filter = 2 if i % 4 == 0 else 3
        rows.append([height, width, to_height, to_width, filter, sha256(np.asarray(image.resize((to_width, to_height), filter)))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="tests/golden/pictures")
    out = Path(parser.parse_args().out)
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, data in samples().items():
        (out / name).write_bytes(data)
        rgb = expected(data)
        if name.startswith("other_"):
            pictures[name] = {"refused": True}
            continue
        cuts = [length for length in range(0, len(data), 7) if not isinstance(expected(data[:length]), str)]
        pictures[name] = {"size_hw": list(rgb.shape[:2]), "sha256": sha256(rgb), "cuts_that_open": cuts}
    lines = ",\n".join(f'  "{name}": {json.dumps(record)}' for name, record in pictures.items())
    rows = ",\n".join(f"  {json.dumps(row)}" for row in resizes())
    (out / "expected.json").write_text(
        f'{{\n "pillow": "{PIL.__version__}",\n "pictures": {{\n{lines}\n }},\n "resizes": [\n{rows}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
