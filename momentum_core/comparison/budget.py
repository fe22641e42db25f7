"""What a step takes of a GPU's memory, term by term, and the largest batch that fits a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from momentum_core.memory.batch_profile import BatchProfile
from momentum_core.memory.caching_allocator import replay

GIB, MIB = 2**30, 2**20
BUDGETS_GIB = (8, 12, 16, 24, 40, 48, 80, 141)
"""Sizes of GPU memory that are sold."""

MOST_EXAMPLES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaTarget:
    """A GPU that is not at hand. What no prediction can know is assumed, and said."""

    context_bytes: int = 512 * MIB
    """Assumed: the driver's context and the loaded kernels (0.3 to 0.6 GiB by driver and GPU)."""

    workspace_bytes: int = 256 * MIB
    """Assumed: scratch memory of matrix products and convolutions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceTerms:
    """Bytes of GPU memory that a step is predicted to take."""

    tensors: int
    """Predicted: parameters, gradients, optimizer, activations and all else at the peak."""

    allocator: int
    """Simulated: what the caching allocator reserves beyond that, by rounding and by splitting."""

    workspaces: int
    """Assumed."""

    context: int
    """Assumed."""

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.tensors + self.allocator + self.workspaces + self.context


def device_terms(profile: BatchProfile, batch_size: int, target: CudaTarget) -> DeviceTerms:
    """Return what a step with a batch takes of a GPU."""
    tensors = profile.total_bytes(batch_size)
    reserved = replay(profile.changes(batch_size)).reserved_bytes
    return DeviceTerms(
        tensors=tensors,
        allocator=reserved - tensors,
        workspaces=target.workspace_bytes,
        context=target.context_bytes,
    )


def largest_batch(profile: BatchProfile, budget_bytes: int, target: CudaTarget) -> int:
    """Return the largest batch whose step fits into a budget; 0 if none does."""

    def spare(batch_size: int) -> int:
        return budget_bytes - device_terms(profile, batch_size, target).total

    fixed = target.context_bytes + target.workspace_bytes
    # The tensors alone are quickly added; the allocator takes more, never less.
    highest = largest(lambda size: budget_bytes - fixed - profile.total_bytes(size))
    return largest(spare, start=highest)


def largest(spare: Callable[[int], int], *, start: int = MOST_EXAMPLES) -> int:
    """Return the largest number from 0 to `start` that leaves something; `spare` falls.

    From `start` downwards along the line through two points, then between the two that enclose it.
    """
    if start == 0 or spare(start) >= 0:
        return start
    low, at_low = 0, spare(0)
    high, at_high = start, spare(start)
    if at_low < 0:
        return 0
    while high - low > 1:
        guess = low + int((high - low) * at_low / (at_low - at_high))
        middle = min(max(guess, low + 1), high - 1)
        found = spare(middle)
        if found >= 0:
            low, at_low = middle, found
            # Where the line is straight, the next number is too large already.
            if spare(min(middle + 1, high)) < 0:
                return low
        else:
            high, at_high = middle, found
    return low
