"""Make the position an inner node of a block's graph, so that the block may write into it."""

# ruff: noqa: ARG004 - autograd fixes the arguments of `forward` and `backward`.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ReadPosition(torch.autograd.Function):
    """A tensor that needs a gradient but is no leaf: autograd allows in-place operations on it."""

    @staticmethod
    def forward(ctx: Any, read: Callable[[], Tensor], anchor: Tensor) -> Tensor:
        """Return what `read` returns; `anchor` only makes the node."""
        return read()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Fail: differentiation stops at this node."""
        raise AssertionError("differentiation stops at this node")
