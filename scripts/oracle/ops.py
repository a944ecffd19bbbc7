#!/usr/bin/env python3
"""Writes tests/golden/ops: what PyTorch makes of small inputs to the ops that work row by row, and of e4m3 codes.

    python scripts/oracle/ops.py            (torch and safetensors; from the project's root)

Every tensor is named OP.NAME; src/ops/*_test.cc read them. All arithmetic is float32.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from keye_reference.fp8_golden import arithmetic_of_codes

torch.manual_seed(20)
golden: dict[str, torch.Tensor] = {}


def keep(op: str, **tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        golden[f"{op}.{name}"] = tensor.detach().contiguous().clone()


def norms() -> None:
    x = torch.randn(3, 100) * torch.tensor([[1.0], [300.0], [0.001]]) + torch.tensor([[0.0], [1000.0], [0.0]])
    weight, bias = torch.randn(100), torch.randn(100)
    rms = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
    keep("rms_norm", x=x, weight=weight, out=rms, out_bf16=rms.bfloat16())
    keep("layer_norm", x=x, weight=weight, bias=bias, out=torch.nn.functional.layer_norm(x, (100,), weight, bias, 1e-6))


def rope() -> None:
    positions = torch.tensor([[0, 7, 4095, 262143, 1000000], [0, 3, 4000, 99, 999999], [0, 9, 4100, 131072, 31]])
    inv_freq = 1.0 / (8000000.0 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128))
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor([16, 24, 24]))
    angles = positions[axis].float().t() * inv_freq
    # The angle is the float32 product; its cosine and sine are taken in float64 and rounded.
    keep("rope", positions=positions.int(), inv_freq=inv_freq, cos=angles.double().cos().float(),
         sin=angles.double().sin().float())


def moe() -> None:
    logits = torch.randn(5, 128) * 3
    weights, experts = torch.topk(torch.softmax(logits, dim=-1), 8, dim=-1)
    keep("moe_route", logits=logits, experts=experts.int(), weights=weights,
         normalised=weights / weights.sum(-1, keepdim=True))
    y, out = torch.randn(12, 40), torch.randn(3, 40)
    places, scale = torch.randperm(12).view(3, 4), torch.rand(3, 4)
    keep("moe_combine", y=y, places=places.int(), weights=scale, out=out,
         sum=out + (y[places] * scale[..., None]).sum(1))


def vision() -> None:
    for rows, cols in ((12, 46), (27, 27), (2, 60)):
        table = torch.randn(27 * 27, 3)
        grid = table.view(27, 27, 3).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(grid, (rows, cols), mode="bilinear", align_corners=False)
        keep(f"grid_{rows}x{cols}", table=table, out=resized[0].permute(1, 2, 0).reshape(rows * cols, 3))
    x = torch.arange(6 * 4 * 3, dtype=torch.float32).view(24, 3)
    merged = x.view(3, 2, 2, 2, 3).transpose(1, 2).reshape(6, 12)
    keep("merge_6x4", x=x, out=merged)


def hadamard(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix * size**-0.5


def indexer(name: str, tokens: int, heads: int, dim: int, topk: int) -> None:
    fused, k_in = torch.randn(tokens, heads * dim + heads), torch.randn(tokens, dim)
    q_norm, k_norm, k_bias = torch.rand(dim) + 0.5, torch.rand(dim) + 0.5, torch.randn(dim) * 0.1
    angles = torch.arange(tokens)[:, None] * (10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        c, s = cos[:, None], sin[:, None]
        return torch.cat([a * c - b * s, b * c + a * s], dim=-1)

    q = fused[:, : heads * dim].view(tokens, heads, dim)
    q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6) * q_norm
    k = torch.nn.functional.layer_norm(k_in, (dim,), k_norm, k_bias, 1e-6)[:, None]
    q, k = rotate(q) @ hadamard(dim), (rotate(k) @ hadamard(dim))[:, 0]
    gate = fused[:, heads * dim :] * dim**-0.5
    scores = torch.einsum("ths,th->ts", torch.einsum("thd,sd->ths", q, k).relu(), gate).tril()
    allowed = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    order = torch.sort(scores.masked_fill(~allowed, -torch.inf), dim=-1, descending=True, stable=True).indices
    chosen = torch.zeros_like(allowed).scatter(1, order[:, :topk], True) & allowed
    keep(name, q_gate=fused, k_in=k_in, q_norm=q_norm, k_norm=k_norm, k_bias=k_bias, cos=cos, sin=sin, q=q, k=k,
         gate=gate, scores=scores, selected=chosen.to(torch.uint8))


norms()
rope()
moe()
vision()
indexer("indexer_64", tokens=90, heads=4, dim=64, topk=20)
indexer("indexer_16", tokens=40, heads=3, dim=16, topk=7)
codes = {f"fp8.{name}": tensor for name, tensor in arithmetic_of_codes().items()}
for name, tensors in (("ops", golden), ("fp8", codes)):
    out = Path(f"tests/golden/ops/{name}.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata={"made_by": "scripts/oracle/ops.py", "torch": torch.__version__})
    print(f"{out}: {len(tensors)} tensors, {out.stat().st_size} bytes")
