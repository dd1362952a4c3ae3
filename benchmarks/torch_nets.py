"""The nets in PyTorch, dense and with the published formula of STR."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import torch
from torch import nn

# The parity tests hold these nets equal to ours, weight by weight.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "parity"))
import torch_side  # type: ignore[import-not-found]

from benchmarks.nets import BLOCKS, CLASSES, HEADS, LENGTH, SIDES, WIDTH


class STRLinear(nn.Linear):
    """Dense layer with sign(w) relu(|w| - sigmoid(s)), one trainable s."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.sparseThreshold = nn.Parameter(torch.full((1, 1), -12.0))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        w = self.weight
        limit = torch.sigmoid(self.sparseThreshold)
        sparse = torch.sign(w) * torch.relu(w.abs() - limit)
        return nn.functional.linear(input, sparse, self.bias)


class Block(nn.Module):
    """Attention and a network of one hidden layer, each around a normalized input."""

    def __init__(self, dense: Any):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (dense(WIDTH, WIDTH) for _ in range(3))
        self.output = dense(WIDTH, WIDTH)
        self.up, self.down = dense(WIDTH, 4 * WIDTH), dense(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` to the same."""

        def heads(layer: Any, y: torch.Tensor) -> torch.Tensor:
            return layer(y).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        y = self.norm1(x)
        query, key, value = (heads(d, y) for d in (self.query, self.key, self.value))
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(found.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Blocks over vectors, and a classifier of their mean."""

    def __init__(self, dense: Any):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dense) for _ in range(BLOCKS)))
        self.fc = dense(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` to `(batch, classes)`."""
        return self.fc(self.blocks(x).mean(1))


def create(net: str, sparse: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """A net and the shape of an example.

    Args:
        net: Key of `nets.NETS`.
        sparse: With thresholds.
    """
    if net == "transformer":
        return Transformer(STRLinear if sparse else nn.Linear), (LENGTH, WIDTH)
    kind: Any = torch_side.STRConv2d if sparse else nn.Conv2d
    side = SIDES[net]
    if net == "mobilenetv1":
        model: nn.Module = torch_side.MobileNet(1.0, CLASSES, kind)
    else:
        model = torch_side.ResNet(4, [3, 4, 6, 3], CLASSES, kind)
    for convolution in torch_side.modules(model, torch_side.STRConv2d):
        nn.init.constant_(convolution.sparseThreshold, -12.0)
    return model, (3, side, side)
