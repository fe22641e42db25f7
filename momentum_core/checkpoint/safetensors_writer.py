"""Writing the canonical file: safetensors that everything downstream reads, and nothing else."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from momentum_core.checkpoint.tensor import ITEM_TYPES, check_values
from momentum_core.durable_files import new_file


class Writable(Protocol):
    """A tensor that can be written: type, shape, and its elements in row-major order."""

    @property
    def dtype(self) -> str:
        """A key of `ITEM_TYPES`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the elements, as little-endian bytes, in pieces."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """A tensor of zeros, for counters that an old file lacks."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_TYPES[self.dtype].itemsize

    def chunks(self) -> Iterator[bytes]:
        """Yield the elements in one piece."""
        yield bytes(self.num_bytes)


def write_safetensors(
    path: Path, tensors: Mapping[str, Writable], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file under a temporary name, sync it, and give it its name.

    Args:
        path: the file; an older one of that name is replaced.
        tensors: tensors by name, such as those of a `Checkpoint`.
        metadata: free text for the header.

    Raises:
        CheckpointError: `non_finite_weights` or `malformed_file`; nothing is left behind then.
    """
    with new_file(path) as descriptor:
        write_tensors(descriptor, tensors, metadata=metadata or {})


def write_tensors(
    descriptor: int, tensors: Mapping[str, Writable], *, metadata: Mapping[str, str]
) -> None:
    """Write a canonical file: sorted by item size and name, one tensor in memory at a time.

    Args:
        descriptor: a file open for writing, at its start; the caller syncs and closes it.
        tensors: tensors by name; they may lie strided in other files.
        metadata: free text for the header.

    Raises:
        CheckpointError: `non_finite_weights` or `malformed_file`, when values cannot be weights.
    """
    order = sorted(tensors, key=lambda name: (-ITEM_TYPES[tensors[name].dtype].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.num_bytes],
        }
        at += tensor.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # The reference pads the header so that the first tensor is aligned to 8 bytes.
    encoded += b" " * (-len(encoded) % 8)
    _write_all(descriptor, struct.pack("<Q", len(encoded)) + encoded)
    for name in order:
        for piece in tensors[name].chunks():
            check_values(name, tensors[name].dtype, piece)
            _write_all(descriptor, piece)


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
