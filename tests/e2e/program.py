"""What the end-to-end tests share: running `keye`, reading its files, and damaged copies of checkpoints."""

import array
import base64
import json
import math
import os
import re
import struct
import subprocess
import tempfile
import unittest
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CHECKPOINTS = GOLDEN / "checkpoints"
NANO = ROOT / "models/keye-nano"
PROGRAM = os.environ.get("KEYE_PROGRAM", str(ROOT / "build/release/keye"))
CLIP_TOOL = os.environ.get("KEYE_CLIP_TOOL", str(ROOT / "build/release/src/media/clip_tool"))


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def keye(*arguments, stdin: str = "", timeout: float = 300) -> Done:
    """Runs the program to its end. Output is read as UTF-8, strictly."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], input=stdin.encode(), capture_output=True, timeout=timeout, cwd=ROOT
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    maxDiff = 2000

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="keye-e2e-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_ok(self, *arguments, stdin: str = "") -> Done:
        done = keye(*arguments, stdin=stdin)
        self.assertEqual(done.code, 0, f"keye {' '.join(map(str, arguments))}\n{done.err}")
        return done

    def assert_fails(self, arguments, *parts, code: int = 1, stdin: str = "", command: str = "") -> str:
        """The command (by default the first word) fails with `code`; its message starts as all do, after log lines if there are any, and holds every
        part. Returns the message."""
        done = keye(*arguments, stdin=stdin)
        shown = f"keye {' '.join(map(str, arguments))} -> {done.code}\n{done.err}"
        self.assertEqual(done.code, code, shown)
        self.assertTrue(re.sub(r"(?m)^\d{4}-.*\n", "", done.err).startswith(f"keye {command or arguments[0]}: "), shown)
        for part in parts:
            self.assertIn(str(part), done.err, shown)
        return done.err

    def write_json(self, name: str, value) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(value))
        return path

    def checkpoint(self, source: Path, **replaced) -> Path:
        """A folder like `source`; files named by `replaced` (a "." written "__") hold these bytes or are left out."""
        contents = {name.replace("__", "."): data for name, data in replaced.items()}
        copy = Path(tempfile.mkdtemp(dir=self.folder))
        for file in source.iterdir():
            if file.name not in contents:
                (copy / file.name).symlink_to(file)
        for name, data in contents.items():
            if data is not None:
                (copy / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return copy


def split_safetensors(data: bytes) -> tuple[dict, bytes]:
    """Header and data section."""
    (size,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_safetensors(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """name -> (dtype, shape, bytes)"""
    header, data = split_safetensors(Path(path).read_bytes())
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def numbers(tensor: tuple[str, list[int], bytes]) -> list:
    """The elements in order."""
    dtype, shape, data = tensor
    values = array.array({"F32": "f", "I32": "i", "I64": "q"}[dtype])
    values.frombytes(data)
    assert len(values) == math.prod(shape)
    return values.tolist()


def golden(kind: str, name: str) -> dict:
    return json.loads((GOLDEN / "expected" / kind / f"{name}.json").read_text())


def golden_messages(kind: str, name: str) -> list:
    """The messages of a golden case with the paths of its pictures in place."""
    case = golden(kind, name)["case"]
    pictures = [str((GOLDEN / "cases" / path).resolve()) for path in case.get("images", [])]
    messages = case["messages"]
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                part["image_url"] = {"url": pictures.pop(0)}
    assert not pictures
    return messages


def data_uri(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(Path(path).read_bytes()).decode()


def make_clip(path: Path, **recipe) -> Path:
    """An encoded clip, by the names of src/media/clip_testing.h."""
    subprocess.run([CLIP_TOOL, "make", path, *(f"{name}={value}" for name, value in recipe.items())], check=True, timeout=300)
    return path


def user(text: str) -> list:
    return [{"role": "user", "content": text}]
