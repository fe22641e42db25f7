"""Gamma moves from a small value, where the network is nearly its original, to its own.

Every value on the way is a fraction that integers can work with: each step is reversed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from momentum_core.gamma import round_gamma
from momentum_core.reversible import MomentumStack, scheme_coefficients

NUM_LEVELS = 8
"""Values on the way; each may cost a compilation."""

START = Fraction(1, 8)
"""Of a run's gamma: what it starts from."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A stack's own rule."""

    stack: MomentumStack
    gamma: Fraction
    coefficients: Tensor | None
    """Copies of what was fitted; None follows the scheme."""
    offsets: Tensor | None
    predictors: Tensor | None

    def follow(self, gamma: Fraction) -> None:
        """Use the rule at another gamma, what was fitted in proportion to it."""
        share = float(gamma / self.gamma)
        self.stack.set_gamma(gamma)
        if self.coefficients is not None:
            count = len(self.stack.blocks)
            there, here = (
                torch.tensor(scheme_coefficients(self.stack.scheme, one, count))
                for one in (self.gamma, gamma)
            )
            shape = (count,) + (1,) * (self.coefficients.dim() - 1)
            there, here = (one.view(shape).to(self.coefficients.device) for one in (there, here))
            fitted = self.coefficients - there
            _set(self.stack.coefficients, here + share * fitted)
        for own, target in (
            (self.stack.offsets, self.offsets),
            (self.stack.predictors, self.predictors),
        ):
            if target is not None:
                _set(own, share * target)

    def reach(self) -> None:
        """Use the stack's own rule again, to the last bit."""
        self.stack.set_gamma(self.gamma)
        for own, target in (
            (self.stack.coefficients, self.coefficients),
            (self.stack.offsets, self.offsets),
            (self.stack.predictors, self.predictors),
        ):
            if target is not None:
                _set(own, target)


class GammaSchedule:
    """Gammas of a model's runs by step.

        gamma[s] = gamma * (1/8 + 7/8 * l/8)        l = floor(8 s / steps), 8 at most
        c[s] = c_scheme(gamma[s]) + gamma[s]/gamma * (c - c_scheme(gamma))
        b[s] = gamma[s]/gamma * b        p[s] = gamma[s]/gamma * p

    Args:
        model: a converted model, whose rules are what the schedule ends with.
        steps: how many the way takes; then the rules are the model's own.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self._steps = steps
        self._targets = [
            _Target(
                stack,
                stack.gamma,
                *(
                    None if one is None else one.detach().clone()
                    for one in (stack.coefficients, stack.offsets, stack.predictors)
                ),
            )
            for stack in model.modules()
            if isinstance(stack, MomentumStack)
        ]

    def follow(self, step: int) -> None:
        """Use the rules of a step, counted from 0."""
        level = NUM_LEVELS * step // self._steps
        if level >= NUM_LEVELS:
            self.reach()
            return
        share = START + (1 - START) * Fraction(level, NUM_LEVELS)
        for target in self._targets:
            target.follow(round_gamma(float(target.gamma * share)))

    def reach(self) -> None:
        """Use the model's own rules."""
        for target in self._targets:
            target.reach()


def _set(parameter: nn.Parameter | None, values: Tensor) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(values)
