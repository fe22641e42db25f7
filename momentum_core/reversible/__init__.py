"""The exact reversible core: momentum stacks whose activations can be recomputed bit for bit."""

from __future__ import annotations

from momentum_core.gamma import round_gamma
from momentum_core.reversible.held import held_state
from momentum_core.reversible.inverse import MomentumState
from momentum_core.reversible.recomputed import Recomputed, recompute_whole
from momentum_core.reversible.run import Backward
from momentum_core.reversible.scheme import scheme_coefficients
from momentum_core.reversible.stack import MomentumStack
from momentum_core.reversible.switches import imagined_on

__all__ = [
    "Backward",
    "MomentumStack",
    "MomentumState",
    "Recomputed",
    "held_state",
    "imagined_on",
    "recompute_whole",
    "round_gamma",
    "scheme_coefficients",
]
