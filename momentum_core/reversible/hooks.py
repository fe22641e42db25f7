"""Keep gradient hooks of parameters from running twice.

A node differentiates its block with `torch.autograd.grad` and hands the result to autograd, which
accumulates it and runs the hooks of the parameters. `torch.autograd.grad` would run them as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge


@contextlib.contextmanager
def without_hooks(inputs: Sequence[Tensor | GradientEdge]) -> Iterator[None]:
    """Silence the gradient hooks of the leaves among `inputs`."""
    hooked = [
        tensor._backward_hooks
        for tensor in inputs
        if isinstance(tensor, Tensor) and tensor.is_leaf and tensor._backward_hooks
    ]
    if not hooked:
        yield
        return
    # Autograd's own record refers to this dictionary, so it is emptied and filled, not replaced.
    kept = [dict(hooks) for hooks in hooked]
    for hooks in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, entries in zip(hooked, kept, strict=True):
            hooks.update(entries)
