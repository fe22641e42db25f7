"""`Run`: what one pass through a stack needs to know, gathered once."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from momentum_core.errors import ConfigError, ReversibilityError
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.fixed_point import FixedPoint
from momentum_core.reversible.increment import BlockRule
from momentum_core.reversible.rule import Trainable

Backward = Literal["reversible", "recomputed", "stored"]
"""What is kept for the backward pass: the last state, every block's input, every block's graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that one pass through a stack needs to know."""

    name: str
    modules: tuple[nn.Module, ...]
    initial_velocity: nn.Module | None
    gamma: Fraction
    rules: tuple[BlockRule, ...]
    trainable: tuple[Trainable, ...]
    fixed_point: FixedPoint
    arguments: Arguments
    backward: Backward
    fused: bool | None

    def where(self, number: int) -> str:
        """Name block `number` in a message."""
        return f"{self.name}, block {number}"

    @property
    def where_it_starts(self) -> str:
        """Name the initial velocity in a message."""
        return f"{self.name}, initial velocity"


def check_input(x: object, name: str) -> None:
    """Raise unless `x` is a float tensor that a run can start from.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__qualname__
        raise ConfigError(f"{name}: the input must be a float tensor, got {kind}")


def refuse_forward_mode(run: Run, x: Tensor) -> None:
    """Raise if `x` or an argument carries a tangent, which integers would drop in silence.

    Raises:
        ReversibilityError: one does.
    """
    tensors = (x, *run.arguments.tensors)
    if any(unpack_dual(tensor).tangent is not None for tensor in tensors):  # type: ignore[no-untyped-call]
        raise ReversibilityError(
            f"{run.name}: forward-mode differentiation cannot pass through the integer state; use "
            "forward_floats, or call the stack where gradients are disabled",
            code="forward_mode",
        )
