"""A block of a run, and what one evaluation of it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from momentum_core.errors import ReversibilityError
from momentum_core.reversible.increment import BlockRule


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the run, as one pass uses it."""

    module: nn.Module
    where: str
    """Run and block, for messages."""

    parameters: tuple[Tensor, ...]
    """Parameters that need a gradient."""

    rule: BlockRule
    trainable: tuple[Tensor | None, Tensor | None, Tensor | None]
    """c, b, p of the rule where they need a gradient."""

    correction: float
    multiplies: bool
    """Whether the velocity before the block may differ from 0."""


@dataclass(slots=True)
class Handover:
    """A gradient that is handed on, so that nobody else keeps it."""

    gradient: Tensor | None = None

    def take(self) -> Tensor | None:
        """Return the gradient, and hold it no longer."""
        gradient, self.gradient = self.gradient, None
        return gradient


@dataclass(slots=True)
class Evaluation:
    """A block's output with the graph that leads to it."""

    where: str
    """Run and block, for messages."""

    output: Tensor | None
    """What the block returned, without its graph, until it is not needed any more."""

    root: GradientEdge | None
    """Where c times the output hangs in the graph; None if it needs no gradient."""

    inputs: tuple[GradientEdge | Tensor, ...]
    """Position (if `with_position`), parameters and arguments: what to differentiate for."""

    with_position: bool
    seen: Tensor | None
    """The block's input, unless the block wrote into it."""

    position: Tensor | None
    """The block's input, where the rule's gradient needs it."""

    scaled: Handover = field(default_factory=Handover)
    """c times the gradient of the root, where it was computed already."""


def check_output(output: object, shape: torch.Size, where: str) -> None:
    """Raise unless a block returned one float tensor of its input's shape.

    Raises:
        ReversibilityError: it did not.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__qualname__
        raise ReversibilityError(
            f"{where}: returned a {kind}; a block must return one float tensor",
            code="block_output",
        )
    if output.shape != shape:
        raise ReversibilityError(
            f"{where}: returned shape {tuple(output.shape)} for an input of shape "
            f"{tuple(shape)}; a block of a run must keep the shape",
            code="block_output",
        )
