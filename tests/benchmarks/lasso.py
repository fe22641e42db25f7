"""Sparse coding by a random dictionary, what the networks of the part `lista` learn to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_FEATURES, NUM_ATOMS = 16, 32
PENALTY = 0.1
"""lambda, a share of the one from which on the solution is 0."""

NUM_TEST = 500
_REFERENCE_STEPS = 4000
_LARGEST_GAP = 1e-6
"""Of the reference minimum; networks get no nearer than a thousand times that."""


@dataclass(frozen=True, slots=True)
class Lasso:
    """F(x) = |y - D x|^2 / 2 + lambda |x|_1 for a dictionary D and test samples y."""

    dictionary: Tensor
    """D: normal numbers, columns of length 1, double precision."""

    step: float
    """eta: one over the largest eigenvalue of D^T D."""

    test: Tensor
    """Samples, shape (NUM_TEST, NUM_FEATURES), scaled so that |D^T y|_max is 1."""

    solutions: Tensor
    """Where F is smallest, by FISTA."""

    minimum: float
    """Mean of F there."""

    @classmethod
    def of_seed(cls, seed: int) -> Lasso:
        """Draw a dictionary and test samples, and solve."""
        generator = torch.Generator().manual_seed(seed)
        size = (NUM_FEATURES, NUM_ATOMS)
        d = F.normalize(torch.randn(size, generator=generator, dtype=torch.float64), dim=0)
        step = 1.0 / float(torch.linalg.matrix_norm(d, 2)) ** 2
        test = draw(d, NUM_TEST, generator)
        solutions = _solve(d, test, step)
        gap = float(_duality_gap(d, solutions, test).mean())
        assert gap <= _LARGEST_GAP, f"FISTA stopped {gap:g} above the minimum"
        minimum = float(objective(d, solutions, test).mean())
        return cls(d, step, test, solutions, minimum)

    def suboptimality(self, network: nn.Module) -> float:
        """Return by how much a network that maps y to x misses the minimum, the tests' mean."""
        with torch.no_grad():
            x = network(self.test.float()).double()
        return float(objective(self.dictionary, x, self.test).mean()) - self.minimum


def objective(d: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return F of each sample."""
    return (y - x @ d.T).square().sum(dim=1) / 2 + PENALTY * x.abs().sum(dim=1)


def draw(d: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return new samples: normal numbers, scaled so that |D^T y|_max is 1."""
    y = torch.randn((count, len(d)), generator=generator, dtype=torch.float64)
    return y / (y @ d).abs().amax(dim=1, keepdim=True)


def _solve(d: Tensor, y: Tensor, step: float) -> Tensor:
    """Run FISTA (Beck and Teboulle 2009)."""
    x = z = torch.zeros(len(y), NUM_ATOMS, dtype=torch.float64)
    t = 1.0
    for _ in range(_REFERENCE_STEPS):
        before, x = x, F.softshrink(z - step * (z @ d.T - y) @ d, step * PENALTY)
        t_before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = x + (t_before - 1) / t * (x - before)
    return x


def _duality_gap(d: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bound how far F(x) can be from the minimum, by a feasible point of the dual problem."""
    rest = y - x @ d.T
    feasible = rest / ((rest @ d).abs().amax(dim=1, keepdim=True) / PENALTY).clamp_min(1.0)
    return objective(d, x, y) - (y.square() - (y - feasible).square()).sum(dim=1) / 2
