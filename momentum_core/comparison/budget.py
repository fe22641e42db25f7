"""What a step takes of a GPU's memory, term by term, and the largest batch that fits a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from momentum_core.memory.batch_profile import BatchProfile
from momentum_core.memory.caching_allocator import replay

GIB, MIB = 2**30, 2**20
BUDGETS_GIB = (8, 12, 16, 24, 40, 48, 80, 141)
"""Sizes of GPU memory that are sold."""

MOST_EXAMPLES = 2**30


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
    """Return the largest batch whose step fits into a budget; 0 if none does.

    Below 1,000 exactly, above to a thousandth; what is returned fits.
    """
    fixed = target.context_bytes + target.workspace_bytes
    # The tensors alone are quickly added; the allocator takes more, never less.
    highest = largest(lambda size: budget_bytes - fixed - profile.total_bytes(size))
    return largest(
        lambda size: budget_bytes - device_terms(profile, size, target).total, at_most=highest
    )


def largest(spare: Callable[[int], int], *, at_most: int = MOST_EXAMPLES) -> int:
    """Return the largest number up to `at_most` that leaves something, where `spare` falls.

    Along the line through the ends of an interval that encloses it. Below 1,000 exactly, above to a
    thousandth.
    """
    low, at_low = 0, spare(0)
    high, at_high = at_most, spare(at_most)
    if at_low < 0:
        return 0
    if at_high >= 0:
        return at_most
    while high - low > max(1, low // 1000):
        guess = low + int((high - low) * at_low / (at_low - at_high))
        middle = min(max(guess, low + 1), high - 1)
        found = spare(middle)
        if found < 0:
            high, at_high = middle, found
            continue
        low, at_low = middle, found
        # Where the line is straight, a little more is too much already.
        further = min(middle + max(1, middle // 1000), high - 1)
        if further > middle:
            more = spare(further)
            if more < 0:
                high, at_high = further, more
            else:
                low, at_low = further, more
    return low
