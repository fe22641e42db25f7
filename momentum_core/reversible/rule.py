"""The tensors c, b, p of a whole run, cut into one rule for each block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from momentum_core.errors import ConfigError
from momentum_core.reversible.increment import BlockRule

Trainable = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTensors:
    """`v' = gamma * v + c * f(x) + b + p * x` for the N blocks of a run."""

    scheme: tuple[float, ...]
    """c where no tensor is given."""

    coefficients: Tensor | None
    """c, shape (N,) or (N, C)."""

    offsets: Tensor | None
    """b, likewise."""

    predictors: Tensor | None
    """p, likewise."""

    includes_skip: bool
    channel_dim: int

    def block_rules(self, x: Tensor, *, detached: bool) -> tuple[BlockRule, ...]:
        """Return each block's rule, its tensors shaped to broadcast against `x`.

        With `detached` the rules carry no graph; fixed numbers on a CPU then become floats.

        Raises:
            ConfigError: `x` has another number of channels.
        """
        columns = [
            [None] * len(self.scheme) if values is None else self._split(values, x)
            for values in (self.coefficients, self.offsets, self.predictors)
        ]
        if detached:
            columns = [
                [None if value is None else value.detach() for value in column]
                for column in columns
            ]
        rules = []
        for number, (c, b, p) in enumerate(zip(*columns, strict=True)):
            coefficient: float | Tensor = self.scheme[number] if c is None else c
            if detached and c is not None and c.numel() == 1 and c.device.type == "cpu":
                coefficient = c.item()
            rules.append(BlockRule(coefficient, b, p, self.includes_skip))
        return tuple(rules)

    def trainable(self, x: Tensor) -> tuple[Trainable, ...]:
        """Return, for each block, those of its c, b, p that need a gradient."""
        columns = [
            self._split(values, x)
            if values is not None and values.requires_grad
            else [None] * len(self.scheme)
            for values in (self.coefficients, self.offsets, self.predictors)
        ]
        return tuple(zip(*columns, strict=True))

    def _split(self, values: Tensor, x: Tensor) -> list[Tensor | None]:
        if values.dim() == 1:
            return list(values.unbind(0))
        channels = x.shape[self.channel_dim]
        if values.shape[1] != channels:
            raise ConfigError(
                f"the rule has numbers for {values.shape[1]} channels, but dimension "
                f"{self.channel_dim} of the input, of shape {tuple(x.shape)}, has {channels}"
            )
        shape = [1] * x.dim()
        shape[self.channel_dim] = channels
        return [row.view(shape) for row in values.unbind(0)]
