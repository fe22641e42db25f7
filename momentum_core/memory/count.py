"""Count one training step by phase, by category and by part of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from momentum_core.memory.tracker import Category, Change, MemoryTracker, Phase
from momentum_core.reversible import held_state

FORWARD, BACKWARD, OPTIMIZER_STEP = "forward", "backward", "optimizer_step"
PHASES = (FORWARD, BACKWARD, OPTIMIZER_STEP)

NUM_SAMPLES = 120
"""Of the bytes alive over a phase; each is the most in its share of the phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCount:
    """Bytes that are alive in one phase of a step, above what was there before the step."""

    name: str
    peak_bytes: int
    peak_by_category: Mapping[Category, int]
    """What is alive at the phase's peak, what was there before included."""

    live_bytes: tuple[int, ...]
    """Over the phase, evenly by number of changes: the most in each of up to 120 shares."""

    @classmethod
    def of(cls, phase: Phase) -> PhaseCount:
        """Return the figures of a tracker's phase."""
        return cls(
            name=phase.name,
            peak_bytes=phase.peak_bytes,
            peak_by_category={one: size for one, size in phase.peak_by_category.items() if size},
            live_bytes=thin_out(phase.levels, NUM_SAMPLES),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCount:
    """Bytes of one training step: forward pass, backward pass, optimizer step."""

    parameter_bytes: int
    gradient_bytes: int
    buffer_bytes: int
    input_bytes: int
    optimizer_bytes: int
    """Kept by the optimizer between steps."""

    activation_bytes: int
    """Held at the end of the forward pass for the backward pass."""

    peak_bytes: int
    """Most that is ever held at once, above parameters, gradients, buffers, input and optimizer."""

    peak_by_category: Mapping[Category, int]
    """What is alive at the peak; all but the five kinds above add up to `peak_bytes`."""

    phases: tuple[PhaseCount, ...]
    held_by_part: Mapping[str, Mapping[Category, int]]
    """Held at the end of the forward pass, by the part that made it; "" is outside all parts."""

    @property
    def fixed_bytes(self) -> int:
        """What is there before the step and after it."""
        fixed = self.parameter_bytes + self.gradient_bytes + self.buffer_bytes
        return fixed + self.input_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """Everything that is held at the peak."""
        return self.fixed_bytes + self.peak_bytes


def count_step(
    model: nn.Module,
    loss: Callable[[], Tensor],
    given: Sequence[Tensor],
    *,
    kept: Sequence[Tensor],
    update: Callable[[], None],
    parts: Mapping[str, nn.Module] | None = None,
) -> tuple[StepCount, list[Change]]:
    """Run one step and count it; gradients and the optimizer's numbers are there already.

    Args:
        model: what is trained.
        loss: runs the forward pass.
        given: the input.
        kept: what the optimizer keeps.
        update: its step.
        parts: modules by name, whose share of the activations is wanted; the innermost counts.

    Returns:
        The figures, and every making, resizing and freeing of a storage in its order.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    known: dict[Category, Iterable[Tensor]] = {
        Category.PARAMETERS: list(model.parameters()),
        Category.GRADIENTS: gradients,
        Category.BUFFERS: list(model.buffers()),
        Category.INPUT: given,
        Category.OPTIMIZER_STATE: kept,
    }
    with MemoryTracker(known) as tracker:
        tracker.phases.clear()
        tracker.begin(FORWARD)
        with _watched(tracker, parts or {}):
            output = loss()
        activation_bytes = tracker.current_bytes
        tracker.file(held_state(output), Category.REVERSIBLE_STATE)
        held_by_part = tracker.held_by_part()
        tracker.category = Category.TEMPORARIES
        tracker.begin(BACKWARD)
        output.backward()  # type: ignore[no-untyped-call]
        tracker.begin(OPTIMIZER_STEP)
        update()
    count = StepCount(
        parameter_bytes=num_bytes(model.parameters()),
        gradient_bytes=num_bytes(gradients),
        buffer_bytes=num_bytes(model.buffers()),
        input_bytes=num_bytes(given),
        optimizer_bytes=num_bytes(kept),
        activation_bytes=activation_bytes,
        peak_bytes=tracker.peak_bytes,
        peak_by_category=tracker.peak_by_category,
        phases=tuple(map(PhaseCount.of, tracker.phases)),
        held_by_part=held_by_part,
    )
    return count, tracker.changes


def thin_out(levels: Sequence[int], num_samples: int) -> tuple[int, ...]:
    """Return the most in each of `num_samples` equal shares of `levels`, or all if they are few."""
    if len(levels) <= num_samples:
        return tuple(levels)
    cuts = [len(levels) * at // num_samples for at in range(num_samples + 1)]
    return tuple(max(levels[cuts[at] : cuts[at + 1]]) for at in range(num_samples))


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _watched(tracker: MemoryTracker, parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Tell the tracker which part is running; hooks for all modules leave the parts themselves."""
    names = {id(module): name for name, module in parts.items()}
    outer: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in names:
            outer.append(tracker.part)
            tracker.part = names[id(module)]

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        if id(module) in names:
            tracker.part = outer.pop()

    handles = [
        register_module_forward_pre_hook(enter),
        # A stack may begin a block, find that it needs another way, and begin it again.
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
