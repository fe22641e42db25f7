"""A model of nobody's library, whose blocks take more than one tensor and return a tuple."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.bundle import load


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.outer = nn.Linear(width, width)

    def forward(self, mask: Tensor, x: Tensor) -> tuple[Tensor, Any]:
        return x + self.outer(self.inner(x) * mask), {"mask": mask, "rest": [None]}


class OwnModel(nn.Module):
    """The first block's weights stand in the head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(4))
        self.head = nn.Linear(8, 8)
        self.head.weight = self.blocks[0].outer.weight
        self.register_buffer("places", torch.linspace(0, 1, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.places
        mask = torch.ones_like(x[..., :1])
        for block in self.blocks:
            x, _ = block(mask, x)
        return self.head(x)


def save_outputs(folder: str, *, own: bool) -> None:
    """Load a bundle and write its outputs for `x.pt`, without and with gradients; in a process."""
    model = load(f"{folder}/bundle", original=OwnModel() if own else None)
    x = torch.load(f"{folder}/x.pt")
    with torch.no_grad():
        plain = model(x)
    torch.save((plain, model(x).detach()), f"{folder}/y.pt")
