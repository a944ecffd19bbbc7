"""Checkpoints that say what a test wants them to say, piece by piece.

All layers of a small checkpoint are made to add nothing, so that the last token alone decides the next one: its embedding is
a code of its own, and the output's row of the token that follows it is that code again. Every piece of every reply is a
token, and no piece is used twice.
"""

import array
import json
import random
from pathlib import Path

from program import CHECKPOINTS, join_safetensors, read_tensors

WIDTH = 64


class Parrot:
    """Writes the checkpoint. `replies` maps what the last message says to (whether the prompt opens <think>, the reply)."""

    def __init__(self, folder: Path, source: str, replies: dict[str, tuple[bool, str]], seed: int = 1):
        self.folder = folder
        self.pieces: dict[str, list[str]] = {}  # of the replies that could be cut into new pieces
        self._source = CHECKPOINTS / source
        self._random = random.Random(seed)
        self._tokenizer = json.loads((self._source / "tokenizer.json").read_text())
        self._used = {token["content"] for token in self._tokenizer["added_tokens"]}
        self._size = 1 + max(token["id"] for token in self._tokenizer["added_tokens"])
        self._next: list[tuple[int, int]] = []  # token, its follower
        self._ends: list[int] = []
        marks = {}
        for number, (name, (opens, reply)) in enumerate(replies.items()):
            pieces = self._cut(reply)
            if pieces is None:
                continue
            self.pieces[name] = pieces
            # A prompt that opens <think> ends with it and white space; which, says which reply is wanted.
            marks[name] = "<think>" + "".join(" \n"[number >> bit & 1] for bit in range(10)) if opens else f"⟦{number}⟧"
            self._used.update(pieces)
            states = [self._add(marks[name]), *[self._add(piece) for piece in pieces], self._add(f"⟦end {number}⟧")]
            self._next += zip(states, states[1:])
            self._ends.append(states[-1])
        self._write(marks)

    def _cut(self, text: str) -> list[str] | None:
        """Random pieces that were not there before."""
        if not text:
            return []
        for _ in range(200):
            cuts = sorted(self._random.sample(range(1, len(text)), self._random.randint(0, min(len(text) - 1, 8))))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
            if len(set(pieces)) == len(pieces) and not self._used & set(pieces):
                return pieces
        return None

    def _add(self, content: str) -> int:
        known = self._tokenizer["model"]["vocab"].get(content)
        if known is not None and content.isascii():
            return known
        token = self._size
        self._size += 1
        self._tokenizer["added_tokens"].append({"id": token, "content": content, "single_word": False, "lstrip": False,
                                                "rstrip": False, "normalized": False, "special": False})
        return token

    def _write(self, marks: dict[str, str]):
        self.folder.mkdir(parents=True)
        for name in ("preprocessor_config.json", "special_tokens_map.json"):
            if (self._source / name).exists():
                (self.folder / name).symlink_to(self._source / name)
        self._write_json("tokenizer.json", self._tokenizer)
        config = json.loads((self._source / "config.json").read_text())
        self._write_json("config.json", {**config, "vocab_size": self._size, "tie_word_embeddings": False})
        self._write_json("generation_config.json", {"do_sample": False, "eos_token_id": self._ends})
        self._write_json("tokenizer_config.json", {"chat_template": (
            "{% set marks = " + json.dumps(marks, ensure_ascii=False) + " %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
            "{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant⟦{{ marks[messages[-1].content] }}")})
        self._write_weights()

    def _write_json(self, name: str, value):
        (self.folder / name).write_text(json.dumps(value, ensure_ascii=False))

    def _write_weights(self):
        tensors = read_tensors(self._source / "model.safetensors")
        embeddings = array.array("f", bytes(4 * self._size * WIDTH))
        outputs = array.array("f", bytes(4 * self._size * WIDTH))
        for token, follower in self._next:
            code = array.array("f", [self._random.choice((-1.0, 1.0)) for _ in range(WIDTH)])
            embeddings[token * WIDTH : (token + 1) * WIDTH] = code
            outputs[follower * WIDTH : (follower + 1) * WIDTH] = code
        header, data = {}, b""
        for name, (dtype, shape, bytes_) in tensors.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                bytes_ = bytes(len(bytes_))
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(bytes_)]}
            data += bytes_
        ones = array.array("f", [1.0] * WIDTH)
        for name, values, shape in (("model.embed_tokens.weight", embeddings, [self._size, WIDTH]),
                                    ("lm_head.weight", outputs, [self._size, WIDTH]), ("model.norm.weight", ones, [WIDTH])):
            bytes_ = values.tobytes()
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(bytes_)]}
            data += bytes_
        # What was replaced is still in the data: a file without holes is what readers want.
        used = sorted((entry["data_offsets"], name) for name, entry in header.items())
        packed = b""
        for (begin, end), name in used:
            header[name]["data_offsets"] = [len(packed), len(packed) + end - begin]
            packed += data[begin:end]
        (self.folder / "model.safetensors").write_bytes(join_safetensors(header, packed))
