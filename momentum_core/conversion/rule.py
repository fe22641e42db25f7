"""The numbers of the momentum rule for one run, as a value that can be compared and stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import torch
from torch import Tensor

from momentum_core.config import Scheme
from momentum_core.errors import ConfigError
from momentum_core.reversible import round_gamma, scheme_coefficients

Numbers = tuple[float | tuple[float, ...], ...]
"""For each block of a run one number, or one for each channel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRule:
    """`v' = gamma * v + c * f(x) + b + p * x`, for each of a run's N blocks."""

    gamma: Fraction
    """The momentum term that is used, a fraction that integers can work with."""

    coefficients: Numbers
    """c of each block."""

    offsets: Numbers | None = None
    """b of each block; None is 0."""

    predictors: Numbers | None = None
    """p of each block; None is 0."""

    channel_dim: int = 1
    """Dimension of x that numbers per channel belong to."""

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, Fraction) or round_gamma(self.gamma) != self.gamma:
            raise ConfigError(
                f"gamma of a run must be a Fraction that integers can work with, got "
                f"{self.gamma!r}; use momentum_core.gamma.round_gamma"
            )
        for name in ("coefficients", "offsets", "predictors"):
            _check(name, getattr(self, name), len(self.coefficients))

    @classmethod
    def of_scheme(cls, scheme: Scheme, gamma: Fraction, num_blocks: int) -> Self:
        """Return the rule that needs no measurement."""
        return cls(gamma=gamma, coefficients=scheme_coefficients(scheme, gamma, num_blocks))

    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return c, b and p as `MomentumStack` takes them, shapes (N,) or (N, C)."""
        return (
            torch.tensor(self.coefficients, dtype=torch.float32),
            None if self.offsets is None else torch.tensor(self.offsets, dtype=torch.float32),
            None if self.predictors is None else torch.tensor(self.predictors, dtype=torch.float32),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        return {
            "gamma": {"numerator": self.gamma.numerator, "denominator": self.gamma.denominator},
            "coefficients": _to_lists(self.coefficients),
            "offsets": self.offsets and _to_lists(self.offsets),
            "predictors": self.predictors and _to_lists(self.predictors),
            "channel_dim": self.channel_dim,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the rule of what `to_json` gave.

        Raises:
            ConfigError: a value is not allowed.
            KeyError, TypeError, ValueError: it is not what `to_json` gave.
        """
        gamma = values["gamma"]
        offsets, predictors = values["offsets"], values["predictors"]
        return cls(
            gamma=Fraction(gamma["numerator"], gamma["denominator"]),
            coefficients=_to_tuples(values["coefficients"]),
            offsets=None if offsets is None else _to_tuples(offsets),
            predictors=None if predictors is None else _to_tuples(predictors),
            channel_dim=int(values["channel_dim"]),
        )


def _check(name: str, numbers: Numbers | None, num_blocks: int) -> None:
    if numbers is None:
        return
    if not numbers or len(numbers) != num_blocks:
        raise ConfigError(f"{name} need an entry for each of the run's blocks, got {len(numbers)}")
    rows = [one if isinstance(one, tuple) else (one,) for one in numbers]
    if (
        len({(len(row), isinstance(one, tuple)) for row, one in zip(rows, numbers, strict=True)})
        > 1
    ):
        raise ConfigError(f"{name} must have one number for each block, or as many for all of them")
    if not all(isinstance(n, float) and math.isfinite(n) for row in rows for n in row):
        raise ConfigError(f"{name} must be finite numbers")


def _to_lists(numbers: Numbers) -> list[Any]:
    return [list(one) if isinstance(one, tuple) else one for one in numbers]


def _to_tuples(numbers: Sequence[Any]) -> Numbers:
    return tuple(
        tuple(float(n) for n in one) if isinstance(one, list) else float(one) for one in numbers
    )
