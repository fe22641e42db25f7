"""Count the bytes of tensors that are alive, every storage once, from its making to its freeing.

Every tensor that an operator returns is counted from then until its storage is freed. What kernels
allocate and free within one operator is not seen: for the backward pass of a convolution on a CPU
that can be as much as 9 MB at a time. torch's own profiler, whose running total includes it, shows
exactly the same bytes where it is read between operators; a test compares the two. Nor is seen what
no operator returns: the state of the random numbers that each `torch.utils.checkpoint` keeps, 5 kB.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Category(StrEnum):
    """What a storage is for."""

    PARAMETERS = "parameters"
    GRADIENTS = "gradients"
    BUFFERS = "buffers"
    INPUT = "input"
    OPTIMIZER_STATE = "optimizer_state"
    EXISTING = "existing"
    """It was there before, and nothing more was said of it."""

    ACTIVATIONS = "activations"
    """Made in the forward pass."""

    REVERSIBLE_STATE = "reversible_state"
    """Position, velocity and remainders, which reversible runs hold in place of activations."""

    TEMPORARIES = "temporaries"
    """Made in the backward pass, or by the optimizer and not kept."""


class Change(NamedTuple):
    """A storage was made, resized or freed."""

    storage: int
    """Its number, in the order in which storages were made."""

    num_bytes: int
    """Above zero if it grew."""


@dataclass(slots=True, eq=False)
class Phase:
    """A section of a training step."""

    name: str
    peak_bytes: int
    """Most bytes that were alive at once in it, without what is known from before."""

    levels: list[int]
    """Bytes that were alive after every change in it, likewise."""

    peak_by_category: dict[Category, int]
    """What was alive at the moment of the peak, what is known included."""

    peak_event: int


@dataclass(slots=True, eq=False)
class _Storage:
    category: Category
    part: str
    num_bytes: int
    is_counted: bool
    number: int
    born: int
    """Number of the change that made it."""


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of storages that operators make while the tracker is active.

    Attributes:
        current_bytes: bytes alive now, without what is known from before.
        category: what storages are filed under from now on.
        part: name of what makes storages from now on.
        changes: all that happened to storages, known ones included, in order.
        phases: sections, see `begin`; the first begins with the tracker and has no name.
    """

    def __init__(self, known: Iterable[Tensor] | Mapping[Category, Iterable[Tensor]] = ()) -> None:
        """Start at zero.

        Args:
            known: tensors that exist already and are not counted, by category if that matters.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = 0
        self.category = Category.ACTIVATIONS
        self.part = ""
        self.changes: list[Change] = []
        self.phases: list[Phase] = []
        self._alive: dict[int, _Storage] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._totals = dict.fromkeys(Category, 0)
        self._num_storages = 0
        self.begin("")
        groups = known if isinstance(known, Mapping) else {Category.EXISTING: known}
        for category, tensors in groups.items():
            for tensor in tensors:
                for part in _parts(tensor):
                    self._watch(part, category, is_counted=False)
        self.phases.clear()
        self.begin("")

    def begin(self, name: str) -> None:
        """Begin a phase: its peak is that of what is alive from now on."""
        now = self.current_bytes
        self.phases.append(Phase(name, now, [now], dict(self._totals), len(self.changes)))

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were alive at once, without what is known from before."""
        return self._highest.peak_bytes

    @property
    def peak_by_category(self) -> dict[Category, int]:
        """Bytes that were alive at the moment of the peak, by category, what is known included."""
        return {one: size for one, size in self._highest.peak_by_category.items() if size}

    def held_by_part(self) -> dict[str, dict[Category, int]]:
        """Return the bytes that are alive now, known ones left out, by who made them and category.

        What no part made stands under the empty name.
        """
        held: dict[str, dict[Category, int]] = {}
        for storage in self._alive.values():
            if storage.is_counted and storage.num_bytes:
                of_part = held.setdefault(storage.part, {})
                of_part[storage.category] = of_part.get(storage.category, 0) + storage.num_bytes
        return held

    def file(self, tensors: Iterable[Tensor], category: Category) -> None:
        """File what `tensors` store under `category`, from when it was made."""
        for tensor in tensors:
            for part in _parts(tensor):
                storage = self._alive.get(id(part.untyped_storage()))
                if storage is not None:
                    self._refile(storage, category)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                for part in _parts(leaf):
                    self._watch(part, self.category, is_counted=True)
        return result

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]

    def _watch(self, tensor: Tensor, category: Category, *, is_counted: bool) -> None:
        memory = tensor.untyped_storage()
        # Asked of the tensor: the storage of a fake one has no device, but the size of a real one.
        if tensor.device.type == "meta":
            return
        key = id(memory)
        known = self._alive.get(key)
        if known is not None:
            # An operator with `out=` may have resized it.
            self._add(known, memory.nbytes() - known.num_bytes)
            return
        self._num_storages += 1
        storage = _Storage(
            category, self.part, 0, is_counted, self._num_storages, len(self.changes)
        )
        self._alive[key] = storage
        self._watches[key] = weakref.ref(memory, lambda _: self._forget(key))
        self._add(storage, memory.nbytes())

    def _forget(self, key: int) -> None:
        del self._watches[key]
        storage = self._alive.pop(key)
        self._add(storage, -storage.num_bytes)

    def _add(self, storage: _Storage, num_bytes: int) -> None:
        if num_bytes == 0:
            return
        storage.num_bytes += num_bytes
        self.changes.append(Change(storage.number, num_bytes))
        self._totals[storage.category] += num_bytes
        if not storage.is_counted:
            return
        self.current_bytes += num_bytes
        phase = self.phases[-1]
        phase.levels.append(self.current_bytes)
        if self.current_bytes > phase.peak_bytes:
            phase.peak_bytes = self.current_bytes
            phase.peak_event = len(self.changes)
            phase.peak_by_category = dict(self._totals)

    @property
    def _highest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    def _refile(self, storage: _Storage, category: Category) -> None:
        touched = [self._totals]
        # It is alive now, so it was alive at every peak since it was made.
        touched += [one.peak_by_category for one in self.phases if storage.born < one.peak_event]
        for totals in touched:
            totals[storage.category] -= storage.num_bytes
            totals[category] += storage.num_bytes
        storage.category = category


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold the memory of `tensor`: itself, unless it is sparse."""
    if tensor.layout == torch.strided:
        yield tensor
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
