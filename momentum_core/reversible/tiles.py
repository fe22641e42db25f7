"""Cut tensors into pieces that stay in the cache while several operations pass over them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

Tile = tuple[slice | int, ...]

CPU_TILE_ELEMENTS = 524288
"""Large enough that starting an operation costs little beside it (measured: at 65,536 elements the
22 bottlenecks of ResNet-101's third stage take 6 % longer), small enough that temporaries of the
update stay below a block's own."""


def plan_tiles(tensor: Tensor, max_elements: int | None) -> tuple[Tile, ...]:
    """Return index tuples that cover `tensor`, each a dense piece of at most `max_elements`.

    The cut runs along the dimensions that vary slowest in memory, so each piece is contiguous.
    With `max_elements` None the tensor is one piece (on a GPU, where launches cost more).
    """
    whole: Tile = (slice(None),) * tensor.dim()
    if max_elements is None or tensor.numel() <= max_elements:
        return (whole,)
    slowest_first = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    inner = tensor.numel()
    outer: list[int] = []
    for dim in slowest_first:
        size = tensor.shape[dim]
        inner //= size
        if inner <= max_elements:
            step = max(1, max_elements // inner)
            # Even pieces keep every thread busy to the end.
            step = math.ceil(size / math.ceil(size / step))
            slices = [slice(at, min(at + step, size)) for at in range(0, size, step)]
            return tuple(
                _place(whole, outer, indices, dim, piece)
                for indices in itertools.product(*(range(tensor.shape[dim]) for dim in outer))
                for piece in slices
            )
        outer.append(dim)
    raise AssertionError("a tensor's innermost dimension leaves one element")


def _place(
    whole: Tile, outer: Sequence[int], indices: Sequence[int], dim: int, piece: slice
) -> Tile:
    index = list(whole)
    for outer_dim, at in zip(outer, indices, strict=True):
        index[outer_dim] = slice(at, at + 1)
    index[dim] = piece
    return tuple(index)
