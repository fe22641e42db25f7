"""Differentiate one evaluation of a block, with the rule's coefficient applied inside the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from momentum_core.errors import ReversibilityError
from momentum_core.reversible.captured import edge_of
from momentum_core.reversible.evaluation import Evaluation, Handover
from momentum_core.reversible.hooks import without_hooks

Gradients = list[Tensor | None]


def carrier(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the shape and device of `like` that stores one element."""
    strides = (0,) * like.dim()
    return torch.empty_strided(like.shape, strides, dtype=dtype or like.dtype, device=like.device)


def scaled_root(
    output: Tensor, coefficient: float | Tensor, dtype: torch.dtype, scaled: Handover
) -> GradientEdge | None:
    """Return where `coefficient * output` hangs in the graph; None if it needs no gradient.

    The product exists in the backward pass only, from the node of the coefficient to the last
    reader: what is inside the block (hooks, functions with a backward of their own) sees the true
    gradient.

    Args:
        output: what a block returned.
        coefficient: c, broadcasts against `output`.
        dtype: type of the gradient that will arrive.
        scaled: has c times that gradient, if somebody computed it before.
    """
    if not output.requires_grad:
        return None
    with torch.enable_grad():
        return edge_of(_Scale.apply(output, coefficient, dtype, scaled))


def pull_back(evaluation: Evaluation, gradient: Tensor) -> Gradients:
    """Return the gradients of `evaluation.inputs`, given that of its root.

    Hooks on parameters do not run here: autograd runs them once, when it accumulates.

    Raises:
        ReversibilityError: a parameter needed a gradient in the forward pass and needs none now.
    """
    root, inputs = evaluation.root, evaluation.inputs
    if any(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in inputs):
        raise ReversibilityError(
            f"{evaluation.where}: requires_grad was switched off for a parameter between the "
            "forward and the backward pass; freeze parameters only after backward()",
            code="changed_before_backward",
        )
    if root is None or not inputs:
        return [None] * len(inputs)
    with without_hooks(inputs):
        # Positions come as edges, parameters as tensors; autograd takes them side by side.
        mixed: Any = inputs
        return list(torch.autograd.grad((root,), mixed, (gradient,), allow_unused=True))


class _Scale(torch.autograd.Function):
    """c * y, with nothing computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        coefficient: float | Tensor,
        dtype: torch.dtype,
        scaled: Handover,
    ) -> Tensor:
        ctx.coefficient, ctx.scaled = coefficient, scaled
        ctx.dtype = output.dtype
        return carrier(output, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (gradient,) = gradients
        assert gradient is not None
        scaled = ctx.scaled.take()
        if scaled is not None:
            gradient = scaled
        elif isinstance(ctx.coefficient, Tensor) or ctx.coefficient != 1.0:
            gradient = gradient * ctx.coefficient
        return gradient.to(ctx.dtype), None, None, None
