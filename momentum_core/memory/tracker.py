"""Count the bytes of tensors that are alive, every storage once, from its making to its freeing.

Every tensor that an operator returns is counted from then until its storage is freed. What kernels
allocate and free within one operator is not seen: for the backward pass of a convolution on a CPU
that can be as much as 9 MB at a time. torch's own profiler, whose running total includes it, shows
exactly the same bytes where it is read between operators; a test compares the two.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

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
    EXISTING = "existing"
    """It was there before, and nothing more was said of it."""

    ACTIVATIONS = "activations"
    """Made in the forward pass."""

    REVERSIBLE_STATE = "reversible_state"
    """Position, velocity and remainders, which reversible runs hold in place of activations."""

    TEMPORARIES = "temporaries"
    """Made in the backward pass."""


@dataclass(slots=True, eq=False)
class _Storage:
    category: Category
    num_bytes: int
    is_counted: bool
    born: int
    """Number of the event that made it."""


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of storages that operators make while the tracker is active.

    Attributes:
        current_bytes: bytes alive now, without what is known from before.
        peak_bytes: most bytes that were alive at once, likewise.
        category: what storages are filed under from now on.
    """

    def __init__(self, known: Iterable[Tensor] | Mapping[Category, Iterable[Tensor]] = ()) -> None:
        """Start at zero.

        Args:
            known: tensors that exist already and are not counted, by category if that matters.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = 0
        self.peak_bytes = 0
        self.category = Category.ACTIVATIONS
        self._alive: dict[int, _Storage] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._totals = dict.fromkeys(Category, 0)
        self._totals_at_peak = dict(self._totals)
        self._num_events = 0
        self._peak_event = 0
        groups = known if isinstance(known, Mapping) else {Category.EXISTING: known}
        for category, tensors in groups.items():
            for tensor in tensors:
                for part in _parts(tensor):
                    self._watch(part, category, is_counted=False)
        self._totals_at_peak = dict(self._totals)

    @property
    def peak_by_category(self) -> dict[Category, int]:
        """Bytes that were alive at the moment of the peak, by category, what is known included."""
        return {category: size for category, size in self._totals_at_peak.items() if size}

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
        self._num_events += 1
        storage = _Storage(category, 0, is_counted, self._num_events)
        self._alive[key] = storage
        self._watches[key] = weakref.ref(memory, lambda _: self._forget(key))
        self._add(storage, memory.nbytes())

    def _forget(self, key: int) -> None:
        del self._watches[key]
        storage = self._alive.pop(key)
        self._add(storage, -storage.num_bytes)

    def _add(self, storage: _Storage, num_bytes: int) -> None:
        self._num_events += 1
        storage.num_bytes += num_bytes
        self._totals[storage.category] += num_bytes
        if storage.is_counted:
            self.current_bytes += num_bytes
        if self.current_bytes > self.peak_bytes:
            self.peak_bytes = self.current_bytes
            self._peak_event = self._num_events
            self._totals_at_peak = dict(self._totals)

    def _refile(self, storage: _Storage, category: Category) -> None:
        touched = [self._totals]
        if storage.born <= self._peak_event:
            # It is alive now, so it was alive at the peak.
            touched.append(self._totals_at_peak)
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
