#!/usr/bin/env python3
"""Writes random BF16 weights in the shape of a published model, for measuring speed: a GGUF file for llama.cpp, or with
--folder a checkpoint folder for keye.

With --tokenizer both have words, so that a server can be asked; without it the vocabulary only has a size. Needs numpy and
gguf from PyPI.
"""

import argparse
import gzip
import json
import math
import os
import struct
from dataclasses import dataclass

import gguf
import numpy as np

BF16 = gguf.GGMLQuantizationType.BF16
HEAD_DIM = 128


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool  # the output matrix is the embedding
    vocab: int = 151936
    experts: int = 0  # each of `intermediate`; 0: one dense network
    experts_used: int = 0


SHAPES = {
    "qwen3-0.6b": Shape(layers=28, hidden=1024, heads=16, kv_heads=8, intermediate=3072, tied=True),
    "qwen3-8b": Shape(layers=36, hidden=4096, heads=32, kv_heads=8, intermediate=12288, tied=False),
    # One layer of a Qwen3-MoE, with next to no vocabulary: what is timed is the layer.
    "keye-2.0-30b-a3b-layer": Shape(layers=1, hidden=2048, heads=32, kv_heads=4, intermediate=768, tied=True, vocab=1024,
                                    experts=128, experts_used=8),
}


def tensors_of(shape: Shape):
    """(name, rows, columns) of every tensor in file order; a vector has no rows. Of experts, all rows follow each other."""
    queries, keys = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    yield "token_embd", shape.vocab, shape.hidden
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
        if shape.experts:
            yield block + "ffn_gate_inp", shape.experts, shape.hidden
            yield block + "ffn_gate_exps", shape.experts * shape.intermediate, shape.hidden
            yield block + "ffn_up_exps", shape.experts * shape.intermediate, shape.hidden
            yield block + "ffn_down_exps", shape.experts * shape.hidden, shape.intermediate
            continue
        yield block + "ffn_gate", shape.intermediate, shape.hidden
        yield block + "ffn_up", shape.intermediate, shape.hidden
        yield block + "ffn_down", shape.hidden, shape.intermediate
    yield "output_norm", None, shape.hidden
    if not shape.tied:
        yield "output", shape.vocab, shape.hidden


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


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_tokenizer(path: str) -> dict:
    """A tokenizer.json, perhaps compressed."""
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        return json.load(file)


def add_words(writer: gguf.GGUFWriter, tokenizer: dict, vocab: int) -> None:
    """The same byte-level BPE, as llama.cpp names it."""
    names = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    names |= {number: token["content"] for number, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names.get(i, f"[unused {i}]") for i in range(vocab)])
    kinds = gguf.TokenType
    writer.add_token_types([
        (kinds.CONTROL if added[i]["special"] else kinds.USER_DEFINED) if i in added else kinds.NORMAL if i in names else kinds.UNUSED
        for i in range(vocab)
    ])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(next(number for number, token in added.items() if token["content"] == "<|im_end|>"))
    writer.add_chat_template(CHAT_TEMPLATE)


def write_folder(name: str, path: str, tokenizer: dict) -> None:
    """config.json, tokenizer and weights as Hugging Face lays them out."""
    shape = SHAPES[name]
    os.makedirs(path, exist_ok=True)
    end = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_end|>")
    files = {
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": HEAD_DIM,
            "hidden_act": "silu", "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
            "max_position_embeddings": 40960, "num_attention_heads": shape.heads, "num_hidden_layers": shape.layers,
            "num_key_value_heads": shape.kv_heads, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
            "tie_word_embeddings": shape.tied, "vocab_size": shape.vocab, "eos_token_id": end,
        },
        "generation_config.json": {"do_sample": False, "eos_token_id": end},
        "tokenizer_config.json": {"chat_template": CHAT_TEMPLATE},
        "tokenizer.json": tokenizer,
    }
    for file, content in files.items():
        with open(os.path.join(path, file), "w") as out:
            json.dump(content, out)
    parts = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
             "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

    def published(tensor: str) -> str:
        if tensor in whole:
            return whole[tensor] + ".weight"
        _, layer, part = tensor.split(".")
        return f"model.layers.{layer}.{parts[part]}.weight"

    header, end_of_last = {}, 0
    for tensor, rows, columns in tensors_of(shape):
        size = 2 * (rows or 1) * columns
        header[published(tensor)] = {"dtype": "BF16", "shape": [columns] if rows is None else [rows, columns],
                                     "data_offsets": [end_of_last, end_of_last + size]}
        end_of_last += size
    text = json.dumps(header).encode()
    noise = Noise(seed=1)
    with open(os.path.join(path, "model.safetensors"), "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, rows, columns in tensors_of(shape):
            ones = np.full(columns, 0x3F80, np.uint16)
            out.write(ones.tobytes() if rows is None else noise.matrix(rows, columns).tobytes())


def write(name: str, path: str, tokenizer: dict | None) -> None:
    shape = SHAPES[name]
    writer = gguf.GGUFWriter(path, "qwen3moe" if shape.experts else "qwen3")
    writer.add_name(f"{name} with random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(262144 if shape.experts else 40960)
    writer.add_vocab_size(shape.vocab)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        add_words(writer, tokenizer, shape.vocab)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.intermediate)

    # Sizes first, contents after, one tensor at a time: the file may be larger than the memory.
    for tensor, rows, columns in tensors_of(shape):
        if rows is None or tensor.endswith("ffn_gate_inp"):  # llama.cpp wants these in f32
            numbers = (columns,) if rows is None else (rows, columns)
            writer.add_tensor_info(tensor + ".weight", numbers, np.dtype(np.float32), 4 * math.prod(numbers))
        elif tensor.endswith("_exps"):
            shape_in_bytes = (shape.experts, rows // shape.experts, 2 * columns)
            writer.add_tensor_info(tensor + ".weight", shape_in_bytes, np.dtype(np.uint8), 2 * rows * columns, raw_dtype=BF16)
        else:
            shape_in_bytes, size = (rows, 2 * columns), 2 * rows * columns
            writer.add_tensor_info(tensor + ".weight", shape_in_bytes, np.dtype(np.uint8), size, raw_dtype=BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    noise = Noise(seed=1)
    for tensor, rows, columns in tensors_of(shape):
        if rows is None:
            writer.write_tensor_data(np.ones(columns, np.float32))
        elif tensor.endswith("ffn_gate_inp"):
            writer.write_tensor_data(noise.random.standard_normal((rows, columns), dtype=np.float32))
        else:
            writer.write_tensor_data(noise.matrix(rows, columns))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", help="file (or folder) to write")
    parser.add_argument("--tokenizer", help="a tokenizer.json or tokenizer.json.gz of the Qwen vocabulary")
    parser.add_argument("--folder", action="store_true", help="write a checkpoint folder in place of a GGUF file")
    arguments = parser.parse_args()
    if SHAPES[arguments.shape].experts and (arguments.folder or arguments.tokenizer):
        parser.error(f"{arguments.shape} is written as a GGUF file without words only")
    tokenizer = read_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    if arguments.folder:
        if tokenizer is None:
            parser.error("--folder needs --tokenizer")
        write_folder(arguments.shape, arguments.out, tokenizer)
        return
    unfinished = arguments.out + ".part"  # so that a broken run leaves no file that looks whole
    write(arguments.shape, unfinished, tokenizer)
    os.replace(unfinished, arguments.out)
    print(f"{arguments.out}: {os.path.getsize(arguments.out) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
