"""What torch's caching allocator for GPUs would reserve for a given order of allocations.

Sizes are rounded up to 512 bytes. Blocks are cut from segments that the allocator asks the driver
for and keeps: of 2 MiB for blocks up to 1 MiB, of 20 MiB for blocks below 10 MiB, else of the size
itself rounded up to 2 MiB. The smallest free block that is large enough is taken, and split where
enough is left over; neighbours that are free become one block.

Source: torch, c10/cuda/CUDACachingAllocator.cpp (defaults, without expandable segments).
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from momentum_core.memory.tracker import Change

ROUNDING = 512
_MIB = 2**20
_SMALL_BLOCK, _SMALL_SEGMENT = _MIB, 2 * _MIB
_LARGE_SEGMENT, _LARGE_ENOUGH = 20 * _MIB, 10 * _MIB
_SEGMENT_ROUNDING = 2 * _MIB


@dataclass(eq=False, slots=True)
class _Block:
    size: int
    is_small: bool
    is_free: bool = True
    before: _Block | None = None
    after: _Block | None = None


@dataclass(slots=True)
class CachingAllocator:
    """Blocks and segments; reserved bytes never fall, as nothing forces the cache to be given back.

    Attributes:
        allocated_bytes: in use now, rounded.
        reserved_bytes: asked of the driver so far.
        peak_allocated_bytes: most that was in use at once.
    """

    allocated_bytes: int = 0
    reserved_bytes: int = 0
    peak_allocated_bytes: int = 0
    _free: dict[bool, list[tuple[int, int, _Block]]] = field(
        default_factory=lambda: {True: [], False: []}
    )
    """By kind, sorted by size; then by age, so that blocks need no order of their own."""

    _used: dict[Hashable, _Block] = field(default_factory=dict)
    _num_entries: int = 0

    def allocate(self, name: Hashable, num_bytes: int) -> None:
        """Take a block for the storage `name`."""
        size = _round_up(max(num_bytes, 1), ROUNDING)
        is_small = size <= _SMALL_BLOCK
        free = self._free[is_small]
        at = bisect.bisect_left(free, (size, 0))
        block = free.pop(at)[2] if at < len(free) else self._new_segment(size, is_small)
        left_over = block.size - size
        if left_over >= ROUNDING if is_small else left_over > _SMALL_BLOCK:
            rest = _Block(left_over, is_small, before=block, after=block.after)
            if block.after is not None:
                block.after.before = rest
            block.size, block.after = size, rest
            self._insert(rest)
        block.is_free = False
        self._used[name] = block
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def free(self, name: Hashable) -> None:
        """Give the block of the storage `name` back to the cache."""
        block = self._used.pop(name)
        self.allocated_bytes -= block.size
        block.is_free = True
        if block.before is not None and block.before.is_free:
            self._remove(block.before)
            block = self._join(block.before, block)
        if block.after is not None and block.after.is_free:
            self._remove(block.after)
            block = self._join(block, block.after)
        self._insert(block)

    def _new_segment(self, size: int, is_small: bool) -> _Block:
        if is_small:
            total = _SMALL_SEGMENT
        elif size < _LARGE_ENOUGH:
            total = _LARGE_SEGMENT
        else:
            total = _round_up(size, _SEGMENT_ROUNDING)
        self.reserved_bytes += total
        return _Block(total, is_small)

    def _join(self, first: _Block, second: _Block) -> _Block:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        return first

    def _insert(self, block: _Block) -> None:
        self._num_entries += 1
        bisect.insort(self._free[block.is_small], (block.size, self._num_entries, block))

    def _remove(self, block: _Block) -> None:
        free = self._free[block.is_small]
        at = bisect.bisect_left(free, (block.size, 0))
        while free[at][2] is not block:
            at += 1
        del free[at]


def replay(changes: Sequence[Change]) -> CachingAllocator:
    """Return the allocator after all changes: makings, resizings and freeings of storages."""
    allocator, sizes = CachingAllocator(), dict[int, int]()
    for storage, num_bytes in changes:
        old = sizes.get(storage, 0)
        sizes[storage] = new = old + num_bytes
        if new:
            allocator.allocate((storage, new), new)
        if old:
            # Resized: copied into the new block before the old one is free.
            allocator.free((storage, old))
    return allocator


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
