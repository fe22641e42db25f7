"""The tasks that small systems are trained for, and their training: one recipe for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.small_systems import DEPTH, SEEDS, Momentum, momentum, states, systems

EXACT = "Momentum ResNet, gamma 0.99, reversed exactly"
"""A row of its own in no table: it must end where the float rule ends."""

NUM_FRESH = 4000
RING_RADII = (1.5, 3.0, 4.5, 6.0)
RING_THICKNESS = 0.6

_FRESH_SEED = 1_000_000
_WORKERS = 2
_LARGEST_GRADIENT = 1.0
"""Longer gradients of a seed are shortened to it: fifteen tied blocks make some very long."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An optimizer and its learning rate, the same for every system."""

    optimizer: str
    rate: float
    num_steps: int | None = None
    """None takes the task's."""

    def __str__(self) -> str:
        longer = "" if self.num_steps is None else f", {self.num_steps:,} steps"
        return f"{self.optimizer} {self.rate:g}{longer}"


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned: points, the loss, the figure that is reported (both for each seed)."""

    dim: int
    num_points: int
    num_steps: int
    draw: Callable[[torch.Generator, int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Trained:
    """One system after one recipe."""

    system: str
    recipe: Recipe
    num_parameters: int
    figures: tuple[float, ...]
    """The task's figure on fresh points, for each seed; NaN where it diverged."""

    outputs: NDArray[np.float32]
    """For the points asked for: (seeds, points, dimensions)."""

    path: NDArray[np.float32] | None
    """For the same points, before the first block and after each, where it is read."""

    failure: str = ""
    """Type and message of the exception that ended it."""

    @property
    def distance(self) -> float | None:
        """How far a point goes in all its steps together, mean over points and seeds."""
        if self.path is None:
            return None
        return float(np.abs(np.diff(self.path, axis=0)).sum(0).mean())

    def finite(self, *, worst: float) -> list[float]:
        """Return the figures, with the worst for a seed that diverged."""
        return [figure if math.isfinite(figure) else worst for figure in self.figures]

    def num_below(self, bound: float) -> int:
        """Return in how many seeds the figure is below a bound."""
        return sum(figure < bound for figure in self.figures)

    def num_from(self, bound: float) -> int:
        """Return in how many seeds the figure is a bound or more."""
        return sum(figure >= bound for figure in self.figures)


def train_all(
    task: str, runs: Sequence[tuple[str, Recipe]], shown: NDArray[np.float32]
) -> list[Trained]:
    """Train systems by recipes, two at a time: the tensors are too small to share.

    Args:
        task: its name in `TASKS`.
        runs: names of systems, and what each is trained by.
        shown: points, of shape (points, dimensions), whose outputs are wanted.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(
        _WORKERS, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        # The slowest first, so that no core idles at the end.
        order = sorted(runs, key=lambda run: "ODE" not in run[0])
        results = [pool.submit(train, task, name, recipe, shown) for name, recipe in order]
        return [result.result() for result in results]


def train(task: str, name: str, recipe: Recipe, shown: NDArray[np.float32]) -> Trained:
    """Train one system; what it raises is kept as its result."""
    try:
        return _train(TASKS[task], name, recipe, torch.from_numpy(shown))
    except Exception as error:  # a rival's library may fail in any way
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        nothing = np.zeros((0, 0, 0), np.float32)
        return Trained(name, recipe, 0, (math.nan,) * len(SEEDS), nothing, None, failure)


def _train(task: Task, name: str, recipe: Recipe, shown: Tensor) -> Trained:
    network = _build(name, task.dim)
    parameters = list(network.parameters())
    kinds = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}
    optimizer = kinds[recipe.optimizer](parameters, lr=recipe.rate)
    num_steps = recipe.num_steps or task.num_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        x, wanted = task.draw(generator, task.num_points)
        optimizer.zero_grad()
        task.loss(network(x), wanted).sum().backward()  # type: ignore[no-untyped-call]
        _shorten_gradients(parameters)
        optimizer.step()
        schedule.step()
    fresh, wanted = task.draw(torch.Generator().manual_seed(_FRESH_SEED), NUM_FRESH)
    points = shown.expand(len(SEEDS), *shown.shape).contiguous()
    with torch.no_grad():
        figures = tuple(task.figure(network(fresh), wanted).tolist())
        outputs = network(points).numpy()
        has_path = task.dim == 1 and name.startswith(("ResNet", "Momentum"))
        path = torch.stack(list(states(network, points))).numpy() if has_path else None
    num_parameters = sum(one.numel() for one in parameters) // len(SEEDS)
    return Trained(name, recipe, num_parameters, figures, outputs, path)


def _build(name: str, dim: int) -> nn.Module:
    if name == EXACT:
        exact: Momentum = momentum(dim, DEPTH, 0.99, is_exact=True)
        return exact
    by_name = {system.name: system for system in systems(dim)}
    return by_name[name].build(dim, DEPTH)


def _shorten_gradients(parameters: list[nn.Parameter]) -> None:
    """Shorten each seed's gradient by itself: seeds must not see one another."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    squares = torch.stack([one.flatten(1).square().sum(1) for one in gradients]).sum(0)
    factors = (_LARGEST_GRADIENT / squares.sqrt()).clamp(max=1.0)
    for one in gradients:
        one.mul_(factors.view(-1, 1, 1))


def _draw_cube(generator: torch.Generator, num_points: int) -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(len(SEEDS), num_points, 1, generator=generator) - 1
    return x, -(x**3)


def _draw_rings(generator: torch.Generator, num_points: int) -> tuple[Tensor, Tensor]:
    """Draw as the authors do: radii 1.5, 3, 4.5, 6, each 0.6 thick; classes in turns."""
    shape = (len(SEEDS), num_points)
    ring = torch.randint(len(RING_RADII), shape, generator=generator)
    angle = 2 * math.pi * torch.rand(shape, generator=generator)
    thickness = RING_THICKNESS * torch.rand(shape, generator=generator)
    radius = torch.tensor(RING_RADII)[ring] + thickness
    x = torch.stack((angle.cos() * radius, angle.sin() * radius), dim=2)
    return x, ring % 2


def _squared_error(output: Tensor, wanted: Tensor) -> Tensor:
    return (output - wanted).square().mean((1, 2))


def _cross_entropy(output: Tensor, wanted: Tensor) -> Tensor:
    """The two dimensions of the last state are the logits: there is no classifier to help."""
    each = F.cross_entropy(output.transpose(1, 2), wanted, reduction="none")
    return each.mean(1)


def _accuracy(output: Tensor, wanted: Tensor) -> Tensor:
    return (output.argmax(2) == wanted).float().mean(1)


TASKS = {
    "cube": Task(1, 50, 1000, _draw_cube, _squared_error, _squared_error),
    "rings": Task(2, 100, 2000, _draw_rings, _cross_entropy, _accuracy),
}
