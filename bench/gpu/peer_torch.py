#!/usr/bin/env python3
"""PyTorch beside the CUDA backend: the same shapes with random weights, in bf16, with SDPA and PyTorch's grouped product.

usage: peer_torch.py [OUTPUT.json]

Needs torch 2.10 or later and about 75 GB of the device's memory. Prints a line for each figure.
"""
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

DEVICE = "cuda"
BF16 = torch.bfloat16
# keye-2.0-30b-a3b
C, HEADS, GROUPS, DIM, EXPERTS, TOP, INNER, LAYERS, VOCAB = 2048, 32, 4, 128, 128, 8, 768, 48, 151936
# its vision encoder
VC, VHEADS, VDIM, VINNER, VLAYERS = 1152, 16, 72, 4304, 27
SIDE, FRAMES = 72, 32

results = {}


def report(name, value, unit):
    results[name] = value
    print(f"{name:32s} {value:10.3f} {unit}", flush=True)


def seconds(work, times=5, warm=2):
    for _ in range(warm):
        work()
    torch.cuda.synchronize()
    taken = []
    for _ in range(times):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return sorted(taken)[len(taken) // 2]


def weights(*shape):
    return torch.randn(shape, device=DEVICE, dtype=BF16).mul_(1 / math.sqrt(shape[-1]))


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Layer:
    def __init__(self):
        self.norm1 = torch.ones(C, device=DEVICE, dtype=BF16)
        self.norm2 = torch.ones(C, device=DEVICE, dtype=BF16)
        self.qkv = weights((HEADS + 2 * GROUPS) * DIM, C)
        self.out = weights(C, HEADS * DIM)
        self.head_norm = torch.ones(DIM, device=DEVICE, dtype=BF16)
        self.router = weights(EXPERTS, C)
        self.gate_up = weights(EXPERTS, 2 * INNER, C)
        self.down = weights(EXPERTS, C, INNER)

    def split(self, x, cos, sin):
        n = x.shape[0]
        qkv = F.linear(F.rms_norm(x, (C,), self.norm1, 1e-6), self.qkv).view(n, HEADS + 2 * GROUPS, DIM)
        q, k, v = qkv.split((HEADS, GROUPS, GROUPS), 1)
        q = rotate(F.rms_norm(q, (DIM,), self.head_norm, 1e-6), cos, sin)
        k = rotate(F.rms_norm(k, (DIM,), self.head_norm, 1e-6), cos, sin)
        return q, k, v

    def experts(self, x):
        normed = F.rms_norm(x, (C,), self.norm2, 1e-6)
        probabilities = F.linear(normed, self.router).float().softmax(-1)
        weight, chosen = probabilities.topk(TOP, -1)
        weight = (weight / weight.sum(-1, keepdim=True)).to(BF16)
        order = chosen.flatten().argsort(stable=True)
        token = order // TOP
        counts = torch.zeros(EXPERTS, device=DEVICE, dtype=torch.int32).scatter_add_(
            0, chosen.flatten(), torch.ones_like(chosen.flatten(), dtype=torch.int32))
        offsets = counts.cumsum(0, dtype=torch.int32)
        grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm
        inner = grouped(normed[token], self.gate_up.transpose(1, 2), offs=offsets)
        gate, up = inner.chunk(2, -1)
        out = grouped(F.silu(gate) * up, self.down.transpose(1, 2), offs=offsets)
        return x.index_add(0, token, out * weight.flatten()[order].unsqueeze(-1))

    def prefill(self, x, cos, sin):
        n = x.shape[0]
        q, k, v = self.split(x, cos, sin)
        mixed = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None],
                                               is_causal=True, enable_gqa=True)
        x = x + F.linear(mixed[0].transpose(0, 1).reshape(n, -1), self.out)
        return self.experts(x)

    def decode(self, x, cos, sin, cache, at):
        b = x.shape[0]
        q, k, v = self.split(x, cos, sin)
        cache[0][:, :, at] = k
        cache[1][:, :, at] = v
        mixed = F.scaled_dot_product_attention(q.view(b, HEADS, 1, DIM), cache[0], cache[1], enable_gqa=True)
        x = x + F.linear(mixed.reshape(b, -1), self.out)
        return self.experts(x)


def limits():
    a, b = weights(8192, 8192), weights(8192, 8192)
    report("peak_tflops", 2 * 8192**3 / seconds(lambda: a @ b) / 1e12, "TFLOP/s")
    big = torch.empty(4 << 30, device=DEVICE, dtype=torch.uint8)
    to = torch.empty_like(big)
    report("copy_gb_per_s", 2 * big.numel() / seconds(lambda: to.copy_(big)) / 1e9, "GB/s")


def tables(n):
    angle = torch.randn(n, 1, DIM, device=DEVICE)
    return angle.cos().to(BF16), angle.sin().to(BF16)


def prefill():
    n = 8192
    layer = Layer()
    x = torch.randn(n, C, device=DEVICE, dtype=BF16)
    cos, sin = tables(n)
    best = seconds(lambda: layer.prefill(x, cos, sin))
    report("prefill_layer_ms", best * 1e3, "ms")
    try:
        start = time.time()
        compiled = torch.compile(layer.prefill, dynamic=False)
        compiled(x, cos, sin)
        torch.cuda.synchronize()
        report("prefill_compile_s", time.time() - start, "s")
        fast = seconds(lambda: compiled(x, cos, sin))
        report("prefill_layer_compiled_ms", fast * 1e3, "ms")
        best = min(best, fast)
    except Exception as error:  # a compiler that fails is not the peer's speed
        print("torch.compile:", str(error)[:200], flush=True)
    report("prefill_8k_s", best * LAYERS, "s: 48 times one layer, without the LM head")


def decode():
    layers = [Layer() for _ in range(LAYERS)]
    head = weights(VOCAB, C)
    for batch, context in ((1, 2048), (64, 2048)):
        x = torch.randn(batch, C, device=DEVICE, dtype=BF16)
        cos, sin = tables(batch)
        caches = [torch.randn(2, batch, GROUPS, context, DIM, device=DEVICE, dtype=BF16) for _ in range(LAYERS)]

        def step():
            y = x
            for layer, cache in zip(layers, caches):
                y = layer.decode(y, cos, sin, cache, context - 1)
            return F.linear(y, head)

        taken = seconds(step, times=3)
        report(f"decode_b{batch}_eager_ms", taken * 1e3, "ms a step")
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            taken = min(taken, seconds(graph.replay))
            report(f"decode_b{batch}_graph_ms", taken * 1e3, "ms a step")
        except Exception as error:
            print("graph:", str(error)[:200], flush=True)
            torch.cuda.synchronize()
        report(f"decode_b{batch}_tokens_per_s", batch / taken, "tokens/s")
        del caches


def vision():
    qkv, out, fc1, fc2 = weights(3 * VC, VC), weights(VC, VC), weights(VINNER, VC), weights(VC, VINNER)
    bias = {w: torch.randn(w, device=DEVICE, dtype=BF16) for w in (3 * VC, VC, VINNER)}
    one = torch.ones(VC, device=DEVICE, dtype=BF16)
    patches = SIDE * SIDE
    x = torch.randn(FRAMES, patches, VC, device=DEVICE, dtype=BF16)
    angle = torch.randn(1, 1, patches, VDIM, device=DEVICE)
    cos, sin = angle.cos().to(BF16), angle.sin().to(BF16)

    def layer(x):
        y = F.linear(F.layer_norm(x, (VC,), one, one), qkv, bias[3 * VC]).view(FRAMES, patches, 3, VHEADS, VDIM)
        q, k, v = y.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + F.linear(mixed.transpose(1, 2).reshape(FRAMES, patches, VC), out, bias[VC])
        y = F.gelu(F.linear(F.layer_norm(x, (VC,), one, one), fc1, bias[VINNER]), approximate="tanh")
        return x + F.linear(y, fc2, bias[VC])

    best = seconds(lambda: layer(x), times=3)
    report("vision_layer_ms", best * 1e3, "ms")
    try:
        compiled = torch.compile(layer, dynamic=False)
        best = min(best, seconds(lambda: compiled(x), times=3))
        report("vision_layer_compiled_ms", best * 1e3, "ms")
    except Exception as error:
        print("torch.compile:", str(error)[:200], flush=True)
    report("vision_s", best * VLAYERS, "s: 27 times one layer")


def main():
    torch.manual_seed(1)
    results["device"] = torch.cuda.get_device_name()
    results["torch"] = torch.__version__
    with torch.inference_mode():
        for part in (limits, prefill, vision, decode):
            try:
                part()
            except Exception as error:
                print(f"{part.__name__} failed: {str(error)[:300]}", flush=True)
            torch.cuda.empty_cache()
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump(results, file, indent=1)


main()
