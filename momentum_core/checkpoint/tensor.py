"""A tensor as it lies in a file: where its numbers are, and how to read and judge them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.refusal import refuse, shown

ITEM_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("|i1"),
    "U8": np.dtype("|u1"),
    "BOOL": np.dtype("|u1"),
}
"""Element types by their safetensors name. numpy has no bfloat16: its bits are read as uint16."""

_BF16_EXPONENT = 0x7F80


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor inside an open file.

    Attributes:
        source: the file.
        dtype: a key of `ITEM_TYPES`.
        shape: its dimensions.
        stride: distance of neighbours along each dimension, in elements.
        offset: position in the file of its first element, in bytes.
    """

    source: ByteSource
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements, laid out without gaps."""
        return self.num_elements * ITEM_TYPES[self.dtype].itemsize

    @property
    def span_bytes(self) -> int:
        """Bytes of the file from its first to its last element, gaps included."""
        return span(self.shape, self.stride) * ITEM_TYPES[self.dtype].itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return is_row_major(self.shape, self.stride)

    def read(self) -> NDArray[np.generic]:
        """Return the elements as a new row-major array (bfloat16 as uint16 bits, bool as uint8)."""
        item = ITEM_TYPES[self.dtype]
        flat = np.frombuffer(self.source.read_at(self.offset, self.span_bytes), dtype=item)
        if self.num_elements == 0:
            return np.empty(self.shape, dtype=item)
        steps = tuple(step * item.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        return np.ascontiguousarray(view).reshape(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """Yield the elements in row-major order, as little-endian bytes, in pieces."""
        if self.num_elements == 0:
            return
        if self.is_contiguous:
            yield from self.source.chunks(self.offset, self.num_bytes)
        else:
            yield self.read().tobytes()


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a strided tensor, gaps included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements lie in row-major order without gaps."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True


def row_major_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a row-major tensor without gaps, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def overlaps_itself(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two elements may share a place; a tensor that tiles its range never does."""
    reach = 1
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if step < reach:
                return True
            reach += (size - 1) * step
    return False


def check_values(name: str, dtype: str, piece: bytes) -> None:
    """Check a piece of a tensor's bytes for values that no weight may have.

    Raises:
        CheckpointError: `non_finite_weights` for NaN and infinity, `malformed_file` for a bool
            that is neither 0 nor 1.
    """
    values = np.frombuffer(piece, dtype=ITEM_TYPES[dtype])
    if dtype in ("F64", "F32", "F16"):
        finite = bool(np.isfinite(values).all())
    elif dtype == "BF16":
        finite = not bool(((values & _BF16_EXPONENT) == _BF16_EXPONENT).any())
    elif dtype == "BOOL" and values.size and int(values.max()) > 1:
        raise refuse("malformed_file", f"tensor {shown(name)} is bool but holds other values")
    else:
        finite = True
    if not finite:
        raise refuse(
            "non_finite_weights",
            f"tensor {shown(name)} holds NaN or infinite values; "
            "the training that made it diverged: send a checkpoint from before that",
        )
