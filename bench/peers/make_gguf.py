#!/usr/bin/env python3
"""Writes a GGUF file with random BF16 weights in the shape of a published model, for measuring speed.

The vocabulary has a size but no words, so the file answers nothing. Needs numpy and gguf from PyPI.
"""

import argparse
import os
from dataclasses import dataclass

import gguf
import numpy as np

BF16 = gguf.GGMLQuantizationType.BF16
HEAD_DIM = 128
VOCAB = 151936


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool  # the output matrix is the embedding


SHAPES = {
    "qwen3-0.6b": Shape(layers=28, hidden=1024, heads=16, kv_heads=8, intermediate=3072, tied=True),
    "qwen3-8b": Shape(layers=36, hidden=4096, heads=32, kv_heads=8, intermediate=12288, tied=False),
}


def tensors_of(shape: Shape):
    """(name, rows, columns) of every tensor in file order; a vector has no rows."""
    queries, keys = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    yield "token_embd", VOCAB, shape.hidden
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm", None, shape.hidden
        yield block + "attn_q", queries, shape.hidden
        yield block + "attn_k", keys, shape.hidden
        yield block + "attn_v", keys, shape.hidden
        yield block + "attn_q_norm", None, HEAD_DIM
        yield block + "attn_k_norm", None, HEAD_DIM
        yield block + "attn_output", shape.hidden, queries
        yield block + "ffn_norm", None, shape.hidden
        yield block + "ffn_gate", shape.intermediate, shape.hidden
        yield block + "ffn_up", shape.intermediate, shape.hidden
        yield block + "ffn_down", shape.hidden, shape.intermediate
    yield "output_norm", None, shape.hidden
    if not shape.tied:
        yield "output", VOCAB, shape.hidden


class Noise:
    """Normal numbers of standard deviation 0.02 as BF16 bit patterns, drawn once and repeated from random places:
    speed does not depend on the values, and drawing billions of them would take minutes."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        values = self.random.standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
        self.bits = (values.view(np.uint32) >> 16).astype(np.uint16)

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        """[rows, 2 * columns] bytes."""
        out = np.empty(rows * columns, np.uint16)
        filled = 0
        while filled < out.size:
            start = int(self.random.integers(self.bits.size // 2))
            part = self.bits[start : start + out.size - filled]
            out[filled : filled + part.size] = part
            filled += part.size
        return out.view(np.uint8).reshape(rows, 2 * columns)


def write(name: str, path: str) -> None:
    shape = SHAPES[name]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(f"{name} with random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(40960)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)

    # Sizes first, contents after, one tensor at a time: the file may be larger than the memory.
    for tensor, rows, columns in tensors_of(shape):
        if rows is None:
            writer.add_tensor_info(tensor + ".weight", (columns,), np.dtype(np.float32), 4 * columns)
        else:
            shape_in_bytes, size = (rows, 2 * columns), 2 * rows * columns
            writer.add_tensor_info(tensor + ".weight", shape_in_bytes, np.dtype(np.uint8), size, raw_dtype=BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    noise = Noise(seed=1)
    for _, rows, columns in tensors_of(shape):
        writer.write_tensor_data(np.ones(columns, np.float32) if rows is None else noise.matrix(rows, columns))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", help="file to write")
    arguments = parser.parse_args()
    unfinished = arguments.out + ".part"  # so that a broken run leaves no file that looks whole
    write(arguments.shape, unfinished)
    os.replace(unfinished, arguments.out)
    print(f"{arguments.out}: {os.path.getsize(arguments.out) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
