"""`Run`: what one pass through a stack needs to know, gathered once."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from momentum_core.errors import ConfigError
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.fixed_point import FixedPoint
from momentum_core.reversible.rule import Trainable
from momentum_core.reversible.update import BlockRule


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
    stored: bool

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
