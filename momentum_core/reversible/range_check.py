"""From activations to integers of the state, with the check that they fit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from momentum_core.errors import StateRangeError
from momentum_core.reversible.fixed_point import FixedPoint, work_dtype


class RangeCheck:
    """Finds values that do not fit the state, before they are cast.

    On a CPU it raises at once. On an accelerator it only remembers, on the device, so that the
    forward pass never waits; `failed` is then read when the backward pass starts.
    """

    def __init__(self, fixed_point: FixedPoint, *, deferred: bool) -> None:
        self.fixed_point = fixed_point
        self.deferred = deferred
        self.where = ""
        """Run and block whose values come next."""

        self.largest_seen = 0.0
        """Largest magnitude admitted since this was last set, unless checks are deferred."""

        self._failures: list[tuple[str, str, Tensor, float]] = []

    def admit(self, values: Tensor, what: str, *, scale: float, limit: int | None = None) -> Tensor:
        """Return `values` (float or int32) if they fit the state; NaN does not.

        Deferred, values that do not are recorded and replaced, so that no cast is undefined.

        Args:
            values: in units of the state.
            what: name for the message.
            scale: units per unit of activation.
            limit: largest magnitude that fits; by default that of positions and increments.

        Raises:
            StateRangeError: not deferred, and a value does not fit.
        """
        if values.numel() == 0:
            return values
        limit = self.fixed_point.limit if limit is None else limit
        self.admit_extent(torch.stack(values.aminmax()), what, scale=scale, limit=limit)
        if not self.deferred:
            return values
        if values.is_floating_point():
            values.nan_to_num_(nan=0.0)
        return values.clamp_(-limit, limit)

    def admit_extent(self, extent: Tensor, what: str, *, scale: float, limit: int) -> None:
        """Do the same for values of which only the largest are given, by magnitude, shape (n,).

        Raises:
            StateRangeError: not deferred, and a value does not fit.
        """
        if self.deferred:
            bounds = extent.to(torch.float64) / scale
            self._failures.append((self.where, what, bounds, limit / scale))
            return
        reached = [abs(value) for value in extent.tolist()]
        if not all(value <= limit for value in reached):
            raise self._error(self.where, what, max(reached) / scale, limit / scale)
        self.largest_seen = max(self.largest_seen, *reached)

    def any_failed(self) -> Tensor | None:
        """Return a bool tensor on the device: whether a recorded value did not fit."""
        if not self._failures:
            return None
        fits = [(seen.abs() <= limit).all() for _, _, seen, limit in self._failures]
        return ~torch.stack(fits).all()

    def raise_if_failed(self) -> None:
        """Wait for the device and raise for the first recorded value that did not fit.

        Raises:
            StateRangeError: a value did not fit.
        """
        failures, self._failures = self._failures, []
        for where, what, bounds, limit in failures:
            reached = [abs(value) for value in bounds.tolist()]
            if not all(value <= limit for value in reached):
                raise self._error(where, what, max(reached), limit)

    def _error(self, where: str, what: str, reached: float, limit: float) -> StateRangeError:
        point = self.fixed_point
        value = f"reaches {reached:.4g}" if math.isfinite(reached) else "is NaN or infinite"
        return StateRangeError(
            f"{where}: {what} {value}; the {point.state_bits}-bit state with scale_bits="
            f"{point.scale_bits} holds up to {limit:g} there. If such values are meant, call "
            "lower_precision() on the stack and repeat the step, or build it with a larger "
            "activation_range; if not, look for diverging training or NaN in the input"
        )


def encode(values: Tensor, scale: float, check: RangeCheck, what: str) -> Tensor:
    """Return `values` as integers of the state, in the same memory layout if it is dense.

    Raises:
        StateRangeError: a value is NaN or does not fit.
    """
    scaled = values.to(work_dtype(values.dtype)) * scale
    scaled = check.admit(scaled, what, scale=scale)
    return torch.empty_like(values, dtype=check.fixed_point.dtype).copy_(scaled.round_())
