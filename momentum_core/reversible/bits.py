"""Measure the bits that a run holds: `python -m momentum_core.reversible.bits` prints the table.

The state of real passes is weighed, tensor by tensor; nothing is taken from the plan.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from momentum_core.gamma import round_gamma
from momentum_core.reversible.stack import MomentumStack

DEPTHS = (2, 5, 22, 35, 100, 1000)
GAMMAS = (1 / 16, 0.1, 0.3, 0.5, 0.7, 7 / 8, 0.9, 0.97, 0.99)

_NUM_ELEMENTS = 256


class _Wave(nn.Module):
    """A residual function with values of either sign and no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), shape of `x`."""
        return torch.sin(5.0 * x)


def measure_bits(gamma: float, num_blocks: int) -> float:
    """Return the bits held per element after a run of `num_blocks`, state of 2 x 32 included."""
    stack = MomentumStack([_Wave()] * num_blocks, gamma=gamma, skip=False)
    x = torch.linspace(-1.0, 1.0, _NUM_ELEMENTS)
    return 8.0 * stack.advance(x).held_bytes() / _NUM_ELEMENTS


def bits_table(gammas: Iterable[float] = GAMMAS, depths: Iterable[int] = DEPTHS) -> str:
    """Return the table as Markdown: bits per element, measured and 64 + N * log2(1/gamma)."""
    depths = tuple(depths)
    lines = [
        "| gamma | " + " | ".join(f"N = {depth:,}" for depth in depths) + " |",
        "| --- |" + " --- |" * len(depths),
    ]
    for gamma in gammas:
        fraction = round_gamma(gamma)
        cells = [
            f"{measure_bits(gamma, depth):,.0f} / {64 - depth * math.log2(fraction):,.1f}"
            for depth in depths
        ]
        lines.append(f"| {fraction} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(bits_table() + "\n")
