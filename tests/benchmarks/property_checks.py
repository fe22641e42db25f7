"""Checks of what a way to save memory promises: each runs it and answers with a measured figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.refinement import to_input
from tests.benchmarks.networks import IMAGENET, cifar_images, cifar_network
from tests.benchmarks.reversible_systems import System
from tests.benchmarks.rival_chains import NeuralOde
from tests.benchmarks.steps import compare

WIDTH, HIDDEN = 32, 64
BATCH, LARGE_BATCH = 64, 2048
"""The second where memory is counted: activations, not weights, are to be what is held."""

EXACT_DEPTH, GRADIENT_DEPTH = 50, 20
DEPTHS = (20, 40)
GAIN = 1.5
"""Of both weights of a function where training is to be unconstrained."""

NETWORK, NUM_IMAGES = "cifar_resnet56", 32
SAME = 0.01
"""What counts as the same network: logits and gradients off by no more, relative."""

RIGHT = 0.01
"""What counts as right gradients, likewise."""

FLAT = 1.25
"""What counts as flat: the peak of twice the depth over that of the depth."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer, and the figure it rests on."""

    cell: str
    value: float


def same_parameters(system: System) -> Checked:
    """Return the share of a pretrained network's numbers that the converted one does not have."""
    network = cifar_network(NETWORK)
    converted = system.converted(network, system.settings[-1])
    before, after = (_joined(model.parameters()) for model in (network, converted))
    if len(before) != len(after) or not torch.equal(before, after):
        cell = f"no (checked: {len(after):,} numbers of {len(before):,})"
        return Checked(cell, 1 - len(after) / len(before))
    if system.halves is not None:
        refused = _error(system.halves(_functions(2)), torch.zeros(BATCH, WIDTH))
        return Checked(f"no (checked: on halves of x a {refused}; on x twice, yes)", 1.0)
    return Checked(f"yes (checked: all {len(before):,} numbers)", 0.0)


def closed_form_inverse(system: System) -> Checked:
    """Return how often a block is evaluated to get its input back from its output."""
    if system.keeps_inputs:
        return Checked("no inverse; every block's input is kept", 1.0)
    seen = _reconstructed(system)
    if seen.is_solved:
        cell = f"no (checked: a solver's {seen.evaluations} evaluations for {EXACT_DEPTH} blocks)"
        return Checked(cell, seen.evaluations / EXACT_DEPTH)
    per_block = seen.evaluations / EXACT_DEPTH
    return Checked(f"yes (checked: evaluations of each block: {per_block:g})", per_block)


def exact_inverse(system: System) -> Checked:
    """Return the share of the values of all blocks' inputs that come back as other bits."""
    seen = _reconstructed(system)
    if seen.share_of_others == 0:
        word = "no need (checked: inputs are kept" if system.keeps_inputs else "yes (checked"
        return Checked(f"{word}: all bits the same after {EXACT_DEPTH} blocks)", 0.0)
    percent = 100 * seen.share_of_others
    cell = f"no (checked: {percent:.0f} % of values differ, by {seen.largest_error:.1g} at most)"
    return Checked(cell, seen.share_of_others)


def unconstrained_training(system: System) -> Checked:
    """Return the relative error of gradients where no Lipschitz bound is below 1."""
    functions = _functions(GRADIENT_DEPTH, gain=GAIN)
    x = _normal(BATCH, WIDTH)
    found, true = (_gradients(system.chain(functions, saves), x) for saves in (True, False))
    error = _relative(found, true)
    bound = min(_lipschitz_bound(function) for function in functions)
    word = "yes" if error <= RIGHT else "no"
    told = "gradients bit for bit" if error == 0 else f"gradients {error:.1g} off"
    return Checked(f"{word} (checked: {told}, Lipschitz bounds from {bound:.1f})", error)


def drop_in(system: System) -> Checked:
    """Return how far logits or gradients of a pretrained network are off at the mildest setting."""
    images = to_input(cifar_images("test")[0][:NUM_IMAGES], IMAGENET)
    network = cifar_network(NETWORK)
    true = _answers(network, images)
    tried = [
        (_Distance.of(_answers(system.converted(network, setting), images), true), setting)
        for setting in system.settings
    ]
    distance, setting = min(tried, key=lambda one: one[0].largest)
    word = "yes" if distance.largest <= SAME else "no"
    at = f", gamma {setting:.2g}" if len(system.settings) > 1 else ""
    return Checked(f"{word} (checked: {distance} off{at})", distance.largest)


def memory_in_depth(system: System) -> Checked:
    """Return the peak of a training step with twice the blocks over that with once."""
    peaks = []
    for depth in DEPTHS:
        model = system.chain(_functions(depth), True)
        x = _normal(LARGE_BATCH, WIDTH).requires_grad_()
        parameters = list(model.parameters())
        peaks.append(compare({"": model}, parameters, x, repeats=0)[""].peak_bytes)
    ratio = peaks[1] / peaks[0]
    word = "flat" if ratio <= FLAT else "grows"
    return Checked(f"{word} (checked: {ratio:.2f}x from {DEPTHS[0]} to {DEPTHS[1]} blocks)", ratio)


class Function(nn.Module):
    """A residual function without its skip."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        with torch.no_grad():
            for layer in (self.rise, self.fall):
                layer.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fall(torch.tanh(self.rise(x)))
        return found


@dataclass(slots=True)
class _Reconstruction:
    """What came back of blocks' inputs."""

    evaluations: int
    share_of_others: float
    largest_error: float
    is_solved: bool = False


def _reconstructed(system: System) -> _Reconstruction:
    """Compare what each function is given in the forward pass and in the backward pass."""
    functions = _functions(EXACT_DEPTH)
    model, x = system.chain(functions, True), _normal(BATCH, WIDTH)
    if isinstance(model, NeuralOde):
        return _solved_back(model, x)
    with _watched(functions) as seen:
        model(x.clone().requires_grad_()).square().mean().backward()
    others = [~_same_bits(calls[0], calls[-1]) for calls in seen]
    errors = [float((calls[0] - calls[-1]).abs().max()) for calls in seen]
    return _Reconstruction(
        evaluations=sum(len(calls) - 1 for calls in seen),
        share_of_others=float(torch.stack(others).float().mean()),
        largest_error=max(errors),
    )


@torch.no_grad()
def _solved_back(model: NeuralOde, x: Tensor) -> _Reconstruction:
    y = model(x)
    with _watched([*model.field.functions]) as seen:
        back = model.inverse(y)
    others = ~_same_bits(x, back)
    error = float((x - back).abs().max())
    return _Reconstruction(len(seen[0]), float(others.float().mean()), error, is_solved=True)


@contextmanager
def _watched(functions: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Note what each function is given."""
    seen: list[list[Tensor]] = [[] for _ in functions]
    with ExitStack() as stack:
        for function, calls in zip(functions, seen, strict=True):
            stack.callback(function.register_forward_pre_hook(_noting(calls)).remove)
        yield seen


def _noting(calls: list[Tensor]) -> Any:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append(given[0].detach().clone())

    return hook


def _same_bits(a: Tensor, b: Tensor) -> Tensor:
    return a.view(torch.int32) == b.view(torch.int32)


def _functions(depth: int, *, gain: float = 1.0) -> list[Function]:
    torch.manual_seed(0)
    return [Function(gain) for _ in range(depth)]


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _lipschitz_bound(function: Function) -> float:
    weights = (function.rise.weight.detach(), function.fall.weight.detach())
    return math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)


def _gradients(model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    x = x.clone().requires_grad_()
    model(x).square().mean().backward()
    return _joined([one.grad for one in (*model.parameters(), x) if one.grad is not None])


@dataclass(frozen=True, slots=True)
class _Distance:
    """Of a network from another one, relative."""

    logits: float
    gradients: float | None
    """None where they are not of the same parameters."""

    @classmethod
    def of(cls, found: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> _Distance:
        same = len(found[1]) == len(true[1])
        return cls(_relative(found[0], true[0]), _relative(found[1], true[1]) if same else None)

    @property
    def largest(self) -> float:
        return math.inf if self.gradients is None else max(self.logits, self.gradients)

    def __str__(self) -> str:
        logits = f"logits {self.logits:.2%}"
        return logits if self.gradients is None else f"{logits}, gradients {self.gradients:.2%}"


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and gradients in evaluation mode.

    The loss is the logits' mean square: the cross-entropy of images that the network knows has next
    to no gradient, so that its relative error would be that of the few others.
    """
    model.eval().zero_grad()
    logits = model(images)
    logits.square().mean().backward()
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    return logits.detach(), _joined(gradients)


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def _error(model: nn.Module, x: Tensor) -> str:
    """Return the type of the error that a model raises, which is to fail."""
    try:
        model(x)
    except RuntimeError as error:
        return type(error).__name__
    raise AssertionError("functions of the whole width work on halves of x")
