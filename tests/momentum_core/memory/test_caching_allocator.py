"""The simulated allocator against segments counted by hand."""

from __future__ import annotations

import random

from momentum_core.memory.caching_allocator import CachingAllocator, replay
from momentum_core.memory.tracker import Change

MIB = 2**20


def _after(*sizes):
    allocator = CachingAllocator()
    for name, size in enumerate(sizes):
        allocator.allocate(name, size)
    return allocator


def test_sizes_are_rounded_up_to_512_bytes_and_taken_from_segments():
    assert (_after(1).allocated_bytes, _after(1).reserved_bytes) == (512, 2 * MIB)
    assert _after(513).allocated_bytes == 1024
    assert _after(MIB, MIB).reserved_bytes == 2 * MIB
    assert _after(MIB, MIB, 1).reserved_bytes == 4 * MIB
    assert _after(MIB + 1).reserved_bytes == 20 * MIB
    assert _after(5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB).reserved_bytes == 20 * MIB
    assert _after(12 * MIB + 1).reserved_bytes == 14 * MIB
    # Small and large blocks never share a segment.
    assert _after(5 * MIB, 100).reserved_bytes == 22 * MIB


def test_the_smallest_free_block_that_fits_is_taken_and_split():
    allocator = _after(30 * MIB, 14 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate("a", 12 * MIB)
    allocator.allocate("b", 28 * MIB)
    assert allocator.reserved_bytes == 44 * MIB
    # What is left of them are two pieces of 2 MiB, which a block of 3 MiB does not fit into.
    allocator.allocate("c", 2 * MIB)
    allocator.allocate("d", 2 * MIB)
    assert allocator.reserved_bytes == 44 * MIB
    allocator.allocate("e", 3 * MIB)
    assert allocator.reserved_bytes == 64 * MIB


def test_a_rest_of_a_mebibyte_stays_with_its_large_block():
    allocator = _after(13 * MIB)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (14 * MIB, 14 * MIB)


def test_free_neighbours_become_one_block():
    allocator = _after(*[5 * MIB] * 4)
    for name in (0, 2, 1):
        allocator.free(name)
    allocator.allocate("large", 14 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


def test_resized_storages_are_copied_before_the_old_block_is_free():
    changes = [Change(1, 30 * MIB), Change(1, 10 * MIB), Change(1, -40 * MIB), Change(2, 40 * MIB)]
    assert replay(changes).reserved_bytes == 70 * MIB


def test_blocks_never_overlap_and_all_come_back():
    generator, allocator = random.Random(0), CachingAllocator()
    alive: dict[int, int] = {}
    for name in range(3000):
        size = int(2 ** generator.uniform(0, 26))
        allocator.allocate(name, size)
        alive[name] = size
        if len(alive) > 40:
            allocator.free(gone := generator.choice(list(alive)))
            del alive[gone]
        assert sum(alive.values()) <= allocator.allocated_bytes <= allocator.reserved_bytes
    for name in alive:
        allocator.free(name)
    assert allocator.allocated_bytes == 0
    free = [size for pool in allocator._free.values() for size, _, _ in pool]
    assert sum(free) == allocator.reserved_bytes
