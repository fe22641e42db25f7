"""LISTA's layers, and the networks that are made of them: as they are, by momentum, as a RevNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_core.reversible import MomentumStack
from tests.benchmarks.lasso import NUM_ATOMS, PENALTY, Lasso
from tests.benchmarks.rival_chains import TwoStreams, couplings

_LARGEST = 16.0


class Layer(nn.Module):
    """g(x, y) = ST(W1 x + W2 y, eta lambda), at first the step of ISTA with step size eta.

    Source: Gregor and LeCun 2010, Learning Fast Approximations of Sparse Coding.
    """

    def __init__(self, lasso: Lasso) -> None:
        super().__init__()
        d, eta = lasso.dictionary, lasso.step
        self.w1 = nn.Parameter((torch.eye(NUM_ATOMS) - eta * d.T @ d).float())
        self.w2 = nn.Parameter((eta * d.T).float())
        self.threshold = eta * PENALTY

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.softshrink(x @ self.w1.T + y @ self.w2.T, self.threshold)


class Residual(nn.Module):
    """f(x, y) = g(x, y) - x."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sub(self.layer(x, y), x)


class Lista(nn.Module):
    """x[n+1] = g_n(x[n], y)."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, y: Tensor) -> Tensor:
        x = _start(y)
        for layer in self.layers:
            x = layer(x, y)
        return x


class Momentum(nn.Module):
    """The momentum rule around the same layers."""

    def __init__(self, layers: Sequence[Layer], gamma: float) -> None:
        super().__init__()
        # Codes stay small. A fine grid matters here: at a coarse one, zeros that are off by a unit
        # flip the sign in the gradient of |x|_1.
        self.stack = MomentumStack(layers, gamma=gamma, scheme="paper", activation_range=_LARGEST)

    def forward(self, y: Tensor) -> Tensor:
        # The same rule; floats are quicker where there is no memory to save.
        return self.stack.forward_floats(_start(y), y)[0]

    def reversed(self, y: Tensor) -> Tensor:
        """Answer so that the backward pass reverses the stack."""
        x: Tensor = self.stack(_start(y), y)
        return x


class RevNet(nn.Module):
    """Two streams that start as one: x1 += f(x2), x2 += g(x1)."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        # Autograd's own gradients: no error of an inverse in floats stands against it.
        self.streams = TwoStreams(couplings([Residual(layer) for layer in layers], saves=False))

    def forward(self, y: Tensor) -> Tensor:
        x: Tensor = self.streams(_start(y), y)
        return x


def _start(y: Tensor) -> Tensor:
    return y.new_zeros(len(y), NUM_ATOMS)


Linearised = Callable[[Tensor], Tensor]
"""The matrix of a layer near a fixed point, from the Jacobian A of f there, shape (B, n, n)."""


@dataclass(frozen=True, slots=True)
class Method:
    """What makes a network of layers."""

    label: str
    network: Callable[[Sequence[Layer]], nn.Module]
    linearised: Linearised
    num_layers: int = 1
    """LISTA's layers in one of its own."""


def spectral_radii(method: Method, layer: Layer, points: Tensor, samples: Tensor) -> Tensor:
    """Return the largest magnitude of an eigenvalue at each of the points."""
    jacobian = torch.func.vmap(torch.func.jacrev(Residual(layer)))
    with torch.no_grad():
        a = jacobian(points, samples).double()
    radii: Tensor = torch.linalg.eigvals(method.linearised(a)).abs().amax(dim=1)
    return radii


def _blocks(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


def _one(a: Tensor) -> Tensor:
    return torch.eye(a.shape[1], dtype=a.dtype).expand_as(a)


def _momentum(gamma: float) -> Method:
    def linearised(a: Tensor) -> Tensor:
        """Of position and velocity."""
        one, step = _one(a), (1 - gamma) * a
        return _blocks([[one + step, gamma * one], [step, gamma * one]])

    label = f"momentum LISTA, gamma {gamma}"
    return Method(label, lambda layers: Momentum(layers, gamma), linearised)


def _revnet(a: Tensor) -> Tensor:
    """Of both streams."""
    one = _one(a)
    return _blocks([[one, a], [a, one + a @ a]])


LISTA = Method("LISTA", Lista, lambda a: _one(a) + a)
MOMENTUM = (_momentum(0.5), _momentum(0.9))
REVNET = Method("RevNet", RevNet, _revnet, num_layers=2)
METHODS = (LISTA, *MOMENTUM, REVNET)
