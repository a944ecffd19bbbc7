#!/usr/bin/env python3
"""Speed of Qwen3-0.6B in bfloat16 with PyTorch and transformers on the CPU; random weights.

Prints one JSON object: {"tokens_per_s", "seconds": [of each repeat or step], "what", "threads", "versions"}.
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

VOCAB = 151936


def random_model(layers: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=40960,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):  # transformers' own initialisation would take longer than the measurement
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # has buffers that are computed, not loaded
    noise = (torch.randn(1 << 22) * 0.02).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        if "norm" in name:
            flat.fill_(1.0)
            continue
        for start in range(0, flat.numel(), noise.numel()):
            part = flat[start : start + noise.numel()]
            part.copy_(noise[: part.numel()])
    return model


def prefill(model: Qwen3ForCausalLM, tokens: int, repeat: int) -> list[float]:
    """Seconds of each repeat; only the last token's logits are computed, as for a prompt."""
    ids = torch.randint(0, VOCAB, (1, tokens))
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first warmed up


def decode(model: Qwen3ForCausalLM, context: int, tokens: int) -> list[float]:
    """Seconds of each greedy step after `context` tokens."""
    cache = DynamicCache(config=model.config)
    output = model(torch.randint(0, VOCAB, (1, context)), past_key_values=cache, use_cache=True, logits_to_keep=1)
    seconds = []
    for _ in range(tokens + 2):
        start = time.perf_counter()
        output = model(output.logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]  # the first two warmed up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prefill", "decode"])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt, or before decoding starts")
    parser.add_argument("--generate", type=int, default=32, help="decode: tokens to measure")
    parser.add_argument("--repeat", type=int, default=3, help="prefill: measured repeats")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = random_model(arguments.layers)
    with torch.inference_mode():
        if arguments.what == "prefill":
            seconds = prefill(model, arguments.prompt, arguments.repeat)
            tokens_per_s = arguments.prompt / statistics.median(seconds)
        else:
            seconds = decode(model, arguments.prompt, arguments.generate)
            tokens_per_s = len(seconds) / sum(seconds)
    result = {
        "what": arguments.what,
        "tokens_per_s": tokens_per_s,
        "seconds": seconds,
        "threads": arguments.threads,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
