"""The coefficients c of the momentum rule that need no measurement."""

from __future__ import annotations

from fractions import Fraction

from momentum_core.config import Scheme
from momentum_core.errors import ConfigError


def scheme_coefficients(scheme: Scheme, gamma: Fraction, num_blocks: int) -> tuple[float, ...]:
    """Return c[0], ..., c[N-1] of `v[i+1] = gamma * v[i] + c[i] * f_i(x[i])`.

        paper:        c[i] = 1 - gamma
        compensated:  c[i] = (1 - gamma) / (1 - gamma^(N-i))

    With the second, each f_i reaches the last position with weight exactly 1, as in the original
    network: `c[i] * (1 + gamma + ... + gamma^(N-1-i)) = 1`.

    Raises:
        ConfigError: the scheme is not known.

    Source: "paper" is Sander et al. 2021, Momentum Residual Neural Networks (arXiv:2102.07870).
    """
    rest = 1 - gamma
    if scheme == "paper":
        return (float(rest),) * num_blocks
    if scheme == "compensated":
        # Floats: an exact gamma^(N-i) has thousands of digits in a deep run.
        decay = float(gamma)
        return tuple(float(rest) / (1.0 - decay ** (num_blocks - i)) for i in range(num_blocks))
    raise ConfigError(f"scheme must be 'compensated' or 'paper', got {scheme!r}")
