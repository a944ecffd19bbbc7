#!/usr/bin/env python3
"""Speed of the Keye vision encoder and projector in bfloat16 with PyTorch on the CPU; random weights.

The computation of `keye bench --shape keye-vision`: position grid resized to the picture, 27 layers with two-axis rotary
embedding and full attention (SDPA), 2x2 merging projector to 2048. Prints one JSON object:
{"seconds": median, "samples": [...], "patches", "attention_share", "threads", "versions"}.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

PATCH, HIDDEN, LAYERS, HEADS, INTERMEDIATE = 14, 1152, 27, 16, 4304
HEAD_DIM = HIDDEN // HEADS
GRID_SIDE, MERGE, TEXT_HIDDEN = 27, 2, 2048


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Layer(nn.Module):
    attention_seconds = 0.0  # of all layers since it was last set to 0

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.norm2 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.fc1 = nn.Linear(HIDDEN, INTERMEDIATE)
        self.fc2 = nn.Linear(INTERMEDIATE, HIDDEN)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (linear(y).view(1, -1, HEADS, HEAD_DIM).transpose(1, 2) for linear in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        start = time.perf_counter()
        y = functional.scaled_dot_product_attention(q, k, v)
        Layer.attention_seconds += time.perf_counter() - start
        x = x + self.out(y.transpose(1, 2).reshape(1, -1, HIDDEN))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(3 * PATCH * PATCH, HIDDEN)
        self.positions = nn.Parameter(torch.randn(1, HIDDEN, GRID_SIDE, GRID_SIDE) * 0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.post_norm = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.merge_norm = nn.LayerNorm(HIDDEN)
        self.project1 = nn.Linear(MERGE * MERGE * HIDDEN, MERGE * MERGE * HIDDEN)
        self.project2 = nn.Linear(MERGE * MERGE * HIDDEN, TEXT_HIDDEN)

    def forward(self, pixels: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """[rows * columns, 588] -> [rows * columns / 4, 2048]"""
        grid = functional.interpolate(self.positions, (rows, columns), mode="bilinear", align_corners=False)
        x = (self.patches(pixels) + grid[0].flatten(1).T)[None]
        cos, sin = self.rotation(rows, columns, x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        x = self.merge_norm(self.post_norm(x))
        x = x.view(rows // MERGE, MERGE, columns // MERGE, MERGE, HIDDEN).transpose(1, 2).flatten(2).flatten(0, 1)
        return self.project2(functional.gelu(self.project1(x)))

    @staticmethod
    def rotation(rows: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [patches, HEAD_DIM]: a quarter for the row, a quarter for the column, twice."""
        frequencies = 10000.0 ** -(torch.arange(0, HEAD_DIM // 2, 2) / (HEAD_DIM // 2))
        index = torch.arange(rows * columns)
        angles = torch.cat((torch.outer(index // columns, frequencies), torch.outer(index % columns, frequencies)), -1)
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="1008x1008", help="HxW pixels, multiples of 28")
    parser.add_argument("--repeat", type=int, default=1, help="measured repeats, after one of 224x224 pixels")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows, columns = (int(side) // PATCH for side in arguments.image.split("x"))

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    encoder = Encoder().to(torch.bfloat16).eval()
    samples, attention = [], []
    with torch.inference_mode():
        encoder(torch.randn(16 * 16, 3 * PATCH * PATCH, dtype=torch.bfloat16), 16, 16)
        pixels = torch.randn(rows * columns, 3 * PATCH * PATCH, dtype=torch.bfloat16)
        for _ in range(arguments.repeat):
            Layer.attention_seconds = 0.0
            start = time.perf_counter()
            encoder(pixels, rows, columns)
            samples.append(time.perf_counter() - start)
            attention.append(Layer.attention_seconds / samples[-1])
    result = {
        "seconds": statistics.median(samples),
        "samples": samples,
        "patches": rows * columns,
        "attention_share": statistics.median(attention),
        "threads": arguments.threads,
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
