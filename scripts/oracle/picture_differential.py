"""Compares keye's picture decoders and resize with PIL on random pictures.

    python scripts/oracle/picture_differential.py --tool build/release/src/media/picture_tool [--count 4000] [--seed 1]

Every picture is made here: by PIL's own writers (JPEG, PNG, GIF, WebP, TIFF, BMP, all modes and options they have), and
by small writers below for what PIL reads but does not write (every PNG colour type and depth, interlaced; BMP with
masks, run lengths, OS/2 headers; TIFF in both byte orders, planar, tiled, with extra samples, odd depths, orientations;
JPEG re-marked as YCCK; truncated files). The expected answer is PIL.Image.open(file).convert("RGB"), or that it raises.
Prints one line per kind: pictures, equal, refused by both, and each difference. Needs pillow and numpy.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

warnings.simplefilter("ignore")
assert not ImageFile.LOAD_TRUNCATED_IMAGES


class Tool:
    """picture_tool, kept running."""

    def __init__(self, path: str):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line: str):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        head = self.process.stdout.readline().decode().strip()
        if not head.startswith("ok "):
            return head
        height, width = (float(x) for x in head.split()[1:])
        if line.startswith("time"):
            return height
        height, width = int(height), int(width)
        data = self.process.stdout.read(height * width * 3)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)


# ---- pictures ----------------------------------------------------------------------------------------------------


def pixels(rng: random.Random, height: int, width: int, channels: int, levels: int = 256) -> np.ndarray:
    """Noise, gradients, flat areas or stripes: [h, w, channels] uint8 below `levels`."""
    generator = np.random.default_rng(rng.getrandbits(32))
    kind = rng.randrange(4)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        if kind == 0:
            plane = generator.integers(0, levels, (height, width))
        elif kind == 1:
            plane = (x * rng.randrange(1, 9) + y * rng.randrange(1, 9)) * levels // 256
        elif kind == 2:
            plane = np.full((height, width), rng.randrange(levels))
        else:
            plane = ((x // rng.randrange(1, 7) + y // rng.randrange(1, 7)) % 2) * rng.randrange(levels)
        planes.append(plane % levels)
    return np.stack(planes, -1).astype(np.uint8)


def size(rng: random.Random) -> tuple[int, int]:
    pick = rng.random()
    if pick < 0.1:
        return rng.randrange(1, 4), rng.randrange(1, 60)
    if pick < 0.2:
        return rng.randrange(1, 60), rng.randrange(1, 4)
    return rng.randrange(1, 70), rng.randrange(1, 70)


def picture(rng: random.Random, mode: str) -> Image.Image:
    height, width = size(rng)
    if mode == "1":
        return Image.fromarray(pixels(rng, height, width, 1, 2)[..., 0] * 255).convert("1", dither=Image.Dither.NONE)
    if mode == "I;16":
        data = np.random.default_rng(rng.getrandbits(32)).integers(0, rng.choice([300, 65536]), (height, width))
        return Image.fromarray(data.astype(np.uint16))
    if mode in ("I", "F"):
        data = np.random.default_rng(rng.getrandbits(32)).integers(-300, 600, (height, width))
        return Image.fromarray(data.astype(np.int32) if mode == "I" else (data + 0.5).astype(np.float32))
    if mode in ("P", "PA"):
        colors = rng.choice([2, 3, 16, 200, 256])
        image = Image.fromarray(pixels(rng, height, width, 1, colors)[..., 0]).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(bytes(rng.randrange(256) for _ in range(3 * colors)))
        return image
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}[mode]
    data = pixels(rng, height, width, channels)
    return Image.frombytes(mode, (width, height), data.tobytes())


def save(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


# ---- files by PIL's writers --------------------------------------------------------------------------------------


def jpeg(rng: random.Random) -> bytes:
    mode = rng.choice(["L", "RGB", "RGB", "RGB", "CMYK"])
    options = {"quality": rng.choice([1, 30, 75, 85, 95, 100]), "progressive": rng.random() < 0.4, "optimize": rng.random() < 0.3}
    if mode != "L":
        options["subsampling"] = rng.choice([0, 1, 2])
    if rng.random() < 0.2:
        options["restart_marker_rows"] = 1
    if mode == "RGB" and rng.random() < 0.1:
        options["keep_rgb"] = True
        options.pop("subsampling")
    if rng.random() < 0.2:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(1, 9)
        options["exif"] = exif
    data = save(picture(rng, mode), "JPEG", **options)
    if mode == "CMYK" and rng.random() < 0.5:  # the same data as YCCK
        at = data.find(b"Adobe")
        if at > 0:
            data = data[: at + 11] + b"\x02" + data[at + 12 :]
    return data


def webp(rng: random.Random) -> bytes:
    mode = rng.choice(["RGB", "RGBA"])
    options = {"lossless": rng.random() < 0.4, "quality": rng.choice([10, 50, 80, 100]), "method": rng.randrange(0, 5)}
    image = picture(rng, mode)
    if mode == "RGBA":
        options["exact"] = rng.random() < 0.5
    if rng.random() < 0.3:
        frames = [Image.frombytes(mode, image.size, bytes(pixels(rng, image.height, image.width, len(mode)).tobytes())) for _ in range(2)]
        options.update(save_all=True, append_images=frames, duration=50, background=(9, 8, 7, 255))
    return save(image, "WEBP", **options)


def gif(rng: random.Random) -> bytes:
    options = {"interlace": rng.randrange(2)}
    image = picture(rng, rng.choice(["1", "L", "P"]))
    if rng.random() < 0.4:
        options["transparency"] = rng.randrange(256)
    if rng.random() < 0.3:
        options.update(save_all=True, append_images=[picture(rng, "P").resize(image.size)], disposal=rng.randrange(4))
    return save(image, "GIF", **options)


def png(rng: random.Random) -> bytes:
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    options = {"compress_level": rng.randrange(10)}
    image = picture(rng, mode)
    if mode == "P" and rng.random() < 0.5:
        options["transparency"] = rng.choice([rng.randrange(256), bytes(rng.randrange(256) for _ in range(5))])
    elif mode == "L" and rng.random() < 0.3:
        options["transparency"] = rng.randrange(256)
    elif mode == "RGB" and rng.random() < 0.3:
        options["transparency"] = (1, 2, 3)
    if rng.random() < 0.15 and mode in ("RGB", "RGBA", "L"):
        options.update(save_all=True, append_images=[picture(rng, mode).resize(image.size)], default_image=rng.random() < 0.5)
        options.pop("transparency", None)
    return save(image, "PNG", **options)


def bmp_pil(rng: random.Random) -> bytes:
    return save(picture(rng, rng.choice(["1", "L", "P", "RGB", "RGBA"])), "BMP")


def tiff_pil(rng: random.Random) -> bytes:
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
    image = picture(rng, mode)
    choices = [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"]
    if mode == "1":
        choices += ["group3", "group4", "tiff_ccitt"]
    if mode in ("L", "RGB", "YCbCr", "CMYK"):
        choices += ["jpeg", "zstd", "lzma"]
    options = {"compression": rng.choice(choices)}
    if options["compression"] == "jpeg":
        options["quality"] = rng.choice([30, 75, 95])
    if rng.random() < 0.3:
        options["tiffinfo"] = {274: rng.randrange(1, 9)}
    if rng.random() < 0.3:
        options["big_tiff"] = True
    return save(image, "TIFF", **options)


# ---- files by writers of our own ---------------------------------------------------------------------------------


def pack(values: np.ndarray, bits: int) -> bytes:
    """[rows, numbers] below 2**bits to rows of bytes, highest bits first."""
    bit = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(bit.reshape(values.shape[0], -1).astype(np.uint8), axis=1)


def png_raw(rng: random.Random) -> bytes:
    color, depth = rng.choice([(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    height, width = size(rng)
    generator = np.random.default_rng(rng.getrandbits(32))
    top = rng.choice([300, 1 << 16]) if depth == 16 else 1 << depth
    entries = rng.randrange(1, (1 << depth) + 1) if color == 3 else 0
    if color == 3 and rng.random() < 0.7:
        top = entries  # otherwise indices may lie outside the palette
    values = generator.integers(0, top, (height, width, channels))
    interlace = rng.random() < 0.5
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)] if interlace else [(0, 0, 1, 1)]
    raw = b""
    for y0, x0, dy, dx in passes:
        part = values[y0::dy, x0::dx]
        if part.size == 0:
            continue
        rows = pack(part.reshape(part.shape[0], -1), depth) if depth < 8 else part.astype(">u2" if depth == 16 else np.uint8).reshape(part.shape[0], -1).view(np.uint8)
        before = np.zeros(rows.shape[1], np.int64)
        step = max(1, channels * depth // 8)
        for row in rows.astype(np.int64):
            kind = rng.randrange(5)
            left = np.concatenate([np.zeros(step, np.int64), row])[: row.size]
            corner = np.concatenate([np.zeros(step, np.int64), before])[: row.size]
            if kind == 4:
                p = left + before - corner
                pa, pb, pc = abs(p - left), abs(p - before), abs(p - corner)
                guess = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, before, corner))
            else:
                guess = [0, left, before, (left + before) // 2][kind]
            raw += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
            before = row
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlace)))
    if rng.random() < 0.3:
        out += chunk(b"gAMA", struct.pack(">I", 45455))
    if color == 3:
        out += chunk(b"PLTE", bytes(rng.randrange(256) for _ in range(3 * entries)))
    if rng.random() < 0.4 and color in (0, 2, 3):
        out += chunk(b"tRNS", bytes(rng.randrange(256) for _ in range({0: 2, 2: 6, 3: entries}[color])))
    body = zlib.compress(raw, rng.randrange(10))
    cut = rng.randrange(1, len(body) + 1)
    return out + chunk(b"IDAT", body[:cut]) + chunk(b"IDAT", body[cut:]) + chunk(b"IEND", b"")


BMP_MASKS = {
    32: [(0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF000000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
         (0xFF, 0xFF00, 0xFF0000, 0xFF000000), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF00, 0xFF, 0xFF0000), (0, 0, 0, 0), (1, 2, 4, 8)],
    24: [(0xFF0000, 0xFF00, 0xFF, 0)],
    16: [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0)],
}


def bmp_runs(rng: random.Random, height: int, width: int, bits: int) -> bytes:
    out = b""
    for _ in range(height):
        left = width
        while left > 0:
            pick = rng.random()
            if pick < 0.6:
                count = min(left, rng.randrange(1, 12))
                out += bytes([count + (rng.randrange(4) if rng.random() < 0.03 else 0), rng.randrange(256)])
            elif pick < 0.9 and left >= 3:
                count = min(left, rng.randrange(3, 12))
                body = bytes(rng.randrange(256) for _ in range(count if bits == 8 else (count + 1) // 2))
                out += bytes([0, count]) + body + b"\0" * (len(body) % 2)
            elif pick < 0.93:
                break
            else:
                count = 0
            left -= count
        out += b"\0\0"
        if rng.random() < 0.05:
            out += bytes([0, 2, rng.randrange(width), rng.randrange(2)])
    return out + b"\0\1"


def bmp_raw(rng: random.Random) -> bytes:
    height, width = size(rng)
    header = rng.choice([12, 40, 40, 40, 52, 56, 64, 108, 124])
    bits = rng.choice([1, 4, 8, 16, 24, 32] if header != 12 else [1, 4, 8, 24])
    compression = 0
    masks = b""
    if header != 12 and bits >= 16 and rng.random() < 0.6:
        compression = 3
        masks = struct.pack("<4I", *rng.choice(BMP_MASKS[bits]))
    elif header != 12 and bits in (4, 8) and rng.random() < 0.5:
        compression = 2 if bits == 4 else 1
    colors = 0
    if bits <= 8 and header != 12 and rng.random() < 0.5:
        colors = rng.randrange(1, (1 << bits) + 1)
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        top_down = rng.random() < 0.3
        head = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, 0, 2835, 2835, colors, 0)
        head += masks[: 12 if header < 56 else 16] if compression == 3 and header >= 52 else b""
        head = head[:header].ljust(header, b"\0")
        if compression == 3 and header == 40:
            head += masks[:12]
    palette = b""
    if bits <= 8:
        entries = colors or 1 << bits
        if rng.random() < 0.25:
            palette = b"".join(bytes([i if entries != 2 else i * 255] * 3 + [0] * (header != 12)) for i in range(entries))
        else:
            palette = bytes(rng.randrange(256) for _ in range(entries * (3 if header == 12 else 4)))
    if compression in (1, 2):
        body = bmp_runs(rng, height, width, bits)
    else:
        stride = (width * bits + 31) // 32 * 4
        body = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, stride * height, np.uint8).tobytes()
    offset = 14 + len(head) + len(palette)
    gap = rng.choice([0, 0, 0, 4])
    if rng.random() < 0.1 and bits <= 8 and compression == 0 and gap == 0:
        offset = 14 + header
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, offset + gap) + head + palette + b"\0" * gap + body


TIFF_LAYOUTS = [
    # photometric, bits, samples, extra samples, sample format
    *[(p, b, 1, (), 1) for p in (0, 1) for b in (1, 2, 4, 8, 16)], (1, 12, 1, (), 1), (1, 8, 1, (), 2), (1, 16, 1, (), 2), (1, 32, 1, (), 1), (1, 32, 1, (), 2),
    (1, 32, 1, (), 3), (0, 32, 1, (), 3), (1, 8, 2, (0,), 1), (1, 8, 2, (2,), 1), (1, 8, 2, (1,), 1), (2, 8, 3, (), 1), (2, 16, 3, (), 1), (2, 8, 4, (), 1),
    *[(2, b, 4, (e,), 1) for b in (8, 16) for e in (0, 1, 2)], (2, 8, 5, (0, 0), 1), (2, 8, 5, (1, 0), 1), (2, 8, 5, (2, 0), 1), (2, 8, 6, (0, 0, 0), 1),
    (2, 8, 6, (1, 0, 0), 1), (2, 8, 6, (2, 0, 0), 1), *[(3, b, 1, (), 1) for b in (1, 2, 4, 8)], (3, 8, 2, (0,), 1), (3, 8, 2, (2,), 1), (5, 8, 4, (), 1),
    (5, 16, 4, (), 1), (5, 8, 5, (0,), 1), (5, 8, 6, (0, 0), 1), (6, 8, 3, (), 1), (2, 32, 3, (), 3),
]


def packbits(data: bytes) -> bytes:
    return b"".join(bytes([len(data[i : i + 100]) - 1]) + data[i : i + 100] for i in range(0, len(data), 100))


def tiff_raw(rng: random.Random) -> bytes:
    photometric, bits, samples, extra, sample_format = rng.choice(TIFF_LAYOUTS)
    height, width = size(rng)
    order = rng.choice("<>")
    compression = rng.choice([1, 1, 8, 32773])
    tiled = rng.random() < 0.3
    planar = fill_order = 1
    # Left out is what PIL opens and then decodes wrongly (Pillow 13.0): big-endian floating or signed samples when
    # compressed; separate planes when uncompressed, unless they are 8-bit strips of RGB with the highest bit first, or
    # without a name for the fourth. keye gives the samples as they are.
    if order == ">" and (sample_format == 3 or (sample_format == 2 and bits > 8)):
        compression = 1
    plain = compression != 1 or (bits == 8 and not tiled and samples == 3 and photometric == 2)
    if 1 < samples <= 4 and plain and not (samples == 4 and photometric == 2 and not extra) and rng.random() < 0.4:
        planar = 2
    if extra in ((), (0,)) and bits <= 8 and not (compression == 1 and (photometric in (0, 3) or planar == 2)) and rng.random() < 0.2:
        fill_order = 2
    generator = np.random.default_rng(rng.getrandbits(32))
    if sample_format == 3:
        values = generator.uniform(-100, 400, (height, width, samples)).astype(np.float32).view(np.uint32).astype(np.int64)
    else:
        top = 1 << bits if rng.random() < 0.5 or bits < 12 else 300
        values = generator.integers(0, top, (height, width, samples))
    block_h, block_w = (16 * rng.randrange(1, 4), 16 * rng.randrange(1, 4)) if tiled else (rng.randrange(1, height + 1), width)
    blocks = []
    for plane in range(samples if planar == 2 else 1):
        part = values[..., plane : plane + 1] if planar == 2 else values
        for y in range(0, height, block_h):
            for x in range(0, width, block_w):
                piece = part[y : y + block_h, x : x + block_w]
                if tiled:
                    piece = np.pad(piece, ((0, block_h - piece.shape[0]), (0, block_w - piece.shape[1]), (0, 0)))
                rows = piece.reshape(piece.shape[0], -1)
                if bits in (16, 32):
                    data = rows.astype(f"{order}u{bits // 8}").tobytes()
                else:
                    data = pack(rows, bits).tobytes()
                if compression == 8:
                    data = zlib.compress(data)
                elif compression == 32773:  # packed row by row
                    step = len(data) // rows.shape[0]
                    data = b"".join(packbits(data[i : i + step]) for i in range(0, len(data), step))
                if fill_order == 2:
                    data = bytes(int(f"{b:08b}"[::-1], 2) for b in data)
                blocks.append(data)
    tags = {256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * samples), 259: ("H", [compression]), 262: ("H", [photometric]),
            277: ("H", [samples]), 284: ("H", [planar])}
    if fill_order == 2:
        tags[266] = ("H", [2])
    if rng.random() < 0.2:
        tags[274] = ("H", [rng.randrange(1, 9)])
    if extra:
        tags[338] = ("H", list(extra))
    if sample_format != 1:
        tags[339] = ("H", [sample_format] * samples)
    if photometric == 3:
        tags[320] = ("H", [rng.randrange(65536) for _ in range(3 << bits)])
    if photometric == 6:
        tags[530] = ("H", [1, 1])
    out = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0))
    places = []
    for data in blocks:
        places.append(len(out))
        out += data + b"\0" * (len(data) % 2)
    counts = [len(b) for b in blocks]
    tags.update({324: ("I", places), 325: ("I", counts), 322: ("I", [block_w]), 323: ("I", [block_h])} if tiled
                else {273: ("I", places), 279: ("I", counts), 278: ("I", [block_h])})
    entries = b""
    for tag, (kind, numbers) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(body) > 4:
            where = len(out)
            out += body + b"\0" * (len(body) % 2)
            body = struct.pack(order + "I", where)
        entries += struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(numbers)) + body.ljust(4, b"\0")
    struct.pack_into(order + "I", out, 4, len(out))
    return bytes(out + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0")


def tiff_ycbcr(rng: random.Random) -> bytes:
    """Subsampled YCbCr: the luma of each little block, then one Cb and one Cr."""
    across, down = rng.choice([(1, 1), (2, 1), (2, 2), (4, 2), (4, 4)])
    height, width = size(rng)
    height, width = max(height, down), max(width, across)  # libtiff 4.7 refuses smaller ones, 4.5 does not
    generator = np.random.default_rng(rng.getrandbits(32))
    columns = -(-width // across)
    rows_per_strip = down * rng.randrange(1, 5)
    blocks = []
    for y in range(0, height, rows_per_strip):
        rows = -(-min(rows_per_strip, height - y) // down)
        flat = generator.integers(0, 256, (rows * columns, across * down + 2), np.uint8)
        blocks.append(zlib.compress(flat.tobytes()))
    out = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    places = []
    for data in blocks:
        places.append(len(out))
        out += data
    out += b"\0" * (len(out) % 2)
    tags = {256: [width], 257: [height], 258: [8, 8, 8], 259: [8], 262: [6], 273: places, 277: [3], 278: [rows_per_strip],
            279: [len(b) for b in blocks], 530: [across, down]}
    entries = b""
    for tag, numbers in sorted(tags.items()):
        kind = "I" if tag in (256, 257, 273, 278, 279) else "H"
        body = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(body) > 4:
            where = len(out)
            out += body + b"\0" * (len(body) % 2)
            body = struct.pack("<I", where)
        entries += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(numbers)) + body.ljust(4, b"\0")
    struct.pack_into("<I", out, 4, len(out))
    return bytes(out + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")


KINDS = {"jpeg": jpeg, "webp": webp, "gif": gif, "png": png, "bmp": bmp_pil, "tiff": tiff_pil, "png raw": png_raw, "bmp raw": bmp_raw, "tiff raw": tiff_raw, "tiff ycc": tiff_ycbcr}


def expected(data: bytes):
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # noqa: BLE001: PIL raises what it likes for a bad file
        return f"{type(error).__name__}: {error}"


def compare_decoders(tool: Tool, count: int, seed: int, folder: Path) -> int:
    path = folder / "picture"
    bad = 0
    for name, make in KINDS.items():
        tally = defaultdict(int)
        differences = []
        for truncated in (False, True):
            rng = random.Random(f"{seed} {name} {truncated}")
            for i in range(count // len(KINDS) if not truncated else count // len(KINDS) // 2):
                data = make(rng)
                if truncated:
                    data = data[: rng.randrange(len(data)) if rng.random() < 0.7 else -rng.randrange(1, 30)]
                path.write_bytes(data)
                want, got = expected(data), tool.ask(f"decode {path}")
                tally["cut" if truncated else "whole"] += 1
                if isinstance(want, str) and isinstance(got, str):
                    tally["refused by both"] += 1
                elif isinstance(want, str):
                    tally["cut: only PIL refuses" if truncated else "only PIL refuses"] += 1
                    differences.append(f"PIL: {want}")
                    (folder / f"{name.replace(' ', '_')}_{truncated}_{i}").write_bytes(data)
                elif isinstance(got, str):
                    tally["cut: only keye refuses" if truncated else "only keye refuses"] += 1
                    differences.append(f"keye: {got}")
                    (folder / f"{name.replace(' ', '_')}_{truncated}_{i}").write_bytes(data)
                elif want.shape == got.shape and np.array_equal(want, got):
                    tally["equal"] += 1
                else:
                    tally["cut: DIFFERENT" if truncated else "DIFFERENT"] += 1
                    worst = np.abs(want.astype(int) - got).max() if want.shape == got.shape else "shape"
                    differences.append(f"pixels, {worst}: picture {i} truncated {truncated}")
                    (folder / f"{name.replace(' ', '_')}_{truncated}_{i}").write_bytes(data)
        print(f"{name:9}", ", ".join(f"{k} {v}" for k, v in tally.items()))
        for line, times in sorted(((d, differences.count(d)) for d in set(differences)), key=lambda x: -x[1])[:12]:
            print(f"    {times} x {line}")
        # A cut file that only one of the two refuses is not counted: it depends on where each starts to read.
        bad += tally["DIFFERENT"] + tally["only PIL refuses"] + tally["only keye refuses"] + tally["cut: DIFFERENT"]
    return bad


def compare_resize(tool: Tool, count: int, seed: int, folder: Path) -> int:
    rng = random.Random(f"{seed} resize")
    path = folder / "resize.png"
    bad = 0
    for _ in range(count):
        height, width = rng.choice([size(rng), (rng.randrange(1, 400), rng.randrange(1, 400))])
        image = Image.fromarray(pixels(rng, height, width, 3))
        image.save(path, compress_level=1)
        pick = rng.random()
        out_h = height if pick < 0.1 else rng.randrange(1, 400)
        out_w = width if 0.05 < pick < 0.2 else rng.randrange(1, 400)
        filter = rng.choice([2, 3, 3])
        want = np.asarray(image.resize((out_w, out_h), filter))
        got = tool.ask(f"resize {path} {out_h} {out_w} {filter}")
        if isinstance(got, str) or not np.array_equal(want, got):
            bad += 1
            if bad <= 10:
                print("    resize differs:", (height, width), (out_h, out_w), filter, got if isinstance(got, str) else "")
    print(f"resize    {count} pairs of sizes, {bad} different")
    return bad


def compare_speed(tool: Tool, folder: Path) -> None:
    path = folder / "large.png"
    rng = random.Random(0)
    for (height, width), (out_h, out_w) in [((3000, 4000), (1008, 1344)), ((1200, 1600), (868, 1148)), ((480, 640), (1008, 1344))]:
        y, x = np.mgrid[0:height, 0:width]
        image = Image.fromarray(np.stack([x % 251, y % 241, (x * y) % 239], -1).astype(np.uint8))
        image.save(path, compress_level=1)
        image.load()
        best = 1e30
        for _ in range(5):
            begin = time.thread_time()
            image.resize((out_w, out_h), Image.Resampling.BICUBIC)
            best = min(best, (time.thread_time() - begin) * 1e3)
        ours = tool.ask(f"time {path} {out_h} {out_w} 3")
        print(f"speed     {width}x{height} -> {out_w}x{out_h}: keye {ours:.1f} ms, PIL {best:.1f} ms (processor time, one thread)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", default="build/release/src/media/picture_tool")
    parser.add_argument("--count", type=int, default=4000, help="pictures, and pairs of sizes; half as many more are truncated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="folder for the pictures that differ")
    arguments = parser.parse_args()
    tool = Tool(arguments.tool)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bad = compare_decoders(tool, arguments.count, arguments.seed, folder)
        bad += compare_resize(tool, arguments.count, arguments.seed, folder)
        compare_speed(tool, folder)
    print("differences:", bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
