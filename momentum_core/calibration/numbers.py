"""The numbers of a run's rule while they are fitted, and how large each may be expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from momentum_core.conversion import RunRule
from momentum_core.conversion.rule import Numbers

_SMALLEST_SIZE = 1e-6


@dataclass(frozen=True, slots=True)
class RunNumbers:
    """c, and b and p where they are fitted, each with its natural size."""

    columns: tuple[Tensor, ...]
    """One to three of c, b, p, shapes (N, C); C is 1 where blocks have one number."""

    sizes: tuple[Tensor, ...]
    """What a relative change of 1 means for each, shapes (N, 1): c's own size; b and p as large as
    what the block adds."""

    @classmethod
    def of(cls, solutions: Sequence[Tensor], scheme: RunRule, rms: Tensor) -> Self:
        """Collect what was found block by block.

        Args:
            solutions: one for each block, shape (C, terms).
            scheme: the rule without calibration.
            rms: root mean squares of f and of x at each block, shape (N, 2).
        """
        c = torch.tensor(scheme.coefficients, device=rms.device).unsqueeze(1)
        added = c * rms[:, :1]
        sizes = (c, added, added / rms[:, 1:].clamp_min(_SMALLEST_SIZE))
        return cls(torch.stack(list(solutions)).unbind(2), sizes[: solutions[0].shape[1]])

    def moved(self, steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the columns after relative changes, of the columns' shapes."""
        return tuple(
            column + size * step
            for column, size, step in zip(self.columns, self.sizes, steps, strict=True)
        )


def rule_of(columns: Sequence[Tensor], scheme: RunRule) -> RunRule:
    """Return the rule with these numbers, one to three of c, b, p of shape (N, C)."""
    c, b, p = (*map(_numbers, columns), None, None)[:3]
    assert c is not None
    return replace(scheme, coefficients=c, offsets=b, predictors=p)


def _numbers(column: Tensor) -> Numbers:
    # The shortest decimals that give the same single-precision numbers keep stored plans small.
    rows = [
        tuple(float(np.format_float_positional(n)) for n in row)
        for row in column.detach().cpu().numpy().astype(np.float32)
    ]
    return tuple(row[0] for row in rows) if column.shape[1] == 1 else tuple(rows)
