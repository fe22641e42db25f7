"""Data sets as `.npz`: arrays `x_train y_train x_test y_test`, read without numpy's pickle path."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.facts import DatasetFacts
from momentum_core.checkpoint.limits import DEFAULT_LIMITS, Limits
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.checkpoint.zip_directory import ZipEntry, entry_chunks, read_directory
from momentum_core.errors import CheckpointError, DataError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_IMAGES, _LABELS = ("x_train", "x_test"), ("y_train", "y_test")
MAX_CLASSES = 100_000
_MAX_ENTRIES = 64
_MAGIC = b"\x93NUMPY"
_HEAD_BYTES = 1 << 12
# numpy writes the keys sorted, padded with spaces; nothing else is needed.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z][0-9]{0,4})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,20}L?, ?)*|(?:[0-9]{1,20}L?, ?)+[0-9]{1,20}L?)\), ?\} *\n?"
)
_LABEL_TYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")
_REMEDY = "save it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images and labels of a data set.

    Attributes:
        x_train: uint8, images x height x width x channels.
        y_train: int64, one label for each image; None if the file has no labels.
        x_test: as `x_train`.
        y_test: as `y_train`.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64] | None
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64] | None

    def without_labels(self) -> Dataset:
        """Return the images alone."""
        return Dataset(self.x_train, None, self.x_test, None)


@dataclass(frozen=True, slots=True)
class _Array:
    """Where an array lies: `start` counts unpacked bytes of the entry."""

    entry: ZipEntry
    dtype: str
    shape: tuple[int, ...]
    fortran_order: bool
    start: int


def read_dataset_facts(
    path: Path, *, num_classes: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> DatasetFacts:
    """Check a data set: headers, labels and checksums; no image is kept in memory.

    Args:
        path: the `.npz` file.
        num_classes: outputs of the network; labels must be below.
        limits: how much it may ask for.

    Raises:
        DataError: with the code of the rule that the file breaks.
    """
    with open_source(path) as source, _as_data_error():
        return parse_dataset_facts(source, num_classes=num_classes, limits=limits)


def read_dataset(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Dataset:
    """Check a data set and return its arrays.

    Raises:
        DataError: with the code of the rule that the file breaks.
    """
    with open_source(path) as source, _as_data_error():
        arrays = _find_arrays(source, limits)
        _check_images(arrays)
        x_train, x_test = (_load(source, arrays[name]) for name in _IMAGES)
        y_train, y_test = (
            _labels(source, arrays, name) if name in arrays else None for name in _LABELS
        )
        return Dataset(x_train.view(np.uint8), y_train, x_test.view(np.uint8), y_test)


def parse_dataset_facts(
    source: ByteSource, *, num_classes: int | None, limits: Limits
) -> DatasetFacts:
    """Find the facts on an open data set; see `read_dataset_facts`.

    Raises:
        CheckpointError: with the code of the rule; callers outside turn it into `DataError`.
    """
    arrays = _find_arrays(source, limits)
    _check_images(arrays)
    for array in arrays.values():
        for _ in entry_chunks(source, array.entry):
            pass  # the sizes and checksums are compared on the way
    labels = [_labels(source, arrays, name) for name in _LABELS if name in arrays]
    largest = max((int(one.max()) for one in labels), default=-1)
    if num_classes is not None and largest >= num_classes:
        raise refuse(
            "invalid_data",
            f"a label is {largest}, but the network has {num_classes} classes "
            f"(labels 0 to {num_classes - 1}); send data for the classes of the network",
        )
    height, width, channels = arrays["x_train"].shape[1:]
    return DatasetFacts(
        num_train=arrays["x_train"].shape[0],
        num_test=arrays["x_test"].shape[0],
        image_shape=(height, width, channels),
        num_classes=largest + 1,
        sha256=source.sha256(),
    )


@contextmanager
def open_source(path: Path) -> Iterator[ByteSource]:
    """Open a file for bounded reading; links are not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield ByteSource(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_data_error() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise DataError(str(error), code=error.code) from None


def _find_arrays(source: ByteSource, limits: Limits) -> dict[str, _Array]:
    if source.num_bytes == 0:
        raise refuse("truncated_file", "the data file is empty; send it again")
    if source.num_bytes > limits.max_file_bytes:
        raise refuse(
            "upload_too_large",
            f"the data file has {source.num_bytes} bytes; the limit is {limits.max_file_bytes}",
        )
    if source.read_up_to(0, 2) != b"PK":
        raise refuse("unsupported_format", f"the data file is not an .npz; {_REMEDY}")
    entries = read_directory(source, max_entries=_MAX_ENTRIES, too_many="too_many_files")
    by_name = {entry.name: entry for entry in entries}
    # Labels may be missing, but then all of them.
    has_labels = any(f"{name}.npy" in by_name for name in _LABELS)
    wanted = ARRAYS if has_labels else _IMAGES
    missing = [name for name in wanted if f"{name}.npy" not in by_name]
    if missing:
        raise refuse("invalid_data", f"the data file lacks {', '.join(missing)}; {_REMEDY}")
    total = sum(by_name[f"{name}.npy"].num_bytes for name in wanted)
    if total > limits.max_array_bytes:
        raise refuse(
            "expands_too_large",
            f"the arrays have {total} bytes; the limit is {limits.max_array_bytes}",
        )
    return {name: _header(source, name, by_name[f"{name}.npy"], limits) for name in wanted}


def _header(source: ByteSource, name: str, entry: ZipEntry, limits: Limits) -> _Array:
    if entry.num_bytes > limits.max_expansion * (entry.packed_bytes + 1024):
        raise refuse(
            "expands_too_large",
            f"{name} unpacks to more than {limits.max_expansion} times its size; "
            "save it with numpy.savez instead of savez_compressed",
        )
    head = b""
    for piece in entry_chunks(source, entry):
        head = piece[:_HEAD_BYTES]
        if head:
            break
    version = head[6:8]
    wide = version in (b"\x02\0", b"\x03\0")
    start = 12 if wide else 10
    length = int.from_bytes(head[8:start], "little")
    header = _HEADER.fullmatch(head[start : start + length])
    if (
        not head.startswith(_MAGIC)
        or not (wide or version == b"\x01\0")
        or len(head) < start + length
        or header is None
    ):
        raise refuse("malformed_file", f"{name} has no header of a plain array; {_REMEDY}")
    dtype, order, dimensions = header.groups()
    shape = tuple(int(part.rstrip(b"L")) for part in dimensions.split(b",") if part.strip())
    found = _Array(entry, dtype.decode(), shape, order == b"True", start + length)
    if dtype.endswith(b"O") or b"O" in dtype:
        raise refuse(
            "malformed_file", f"{name} holds Python objects; convert it with .astype(numpy.uint8)"
        )
    _check_size(name, found)
    return found


def _check_size(name: str, array: _Array) -> None:
    if len(array.shape) > 4 or math.prod(array.shape) > 1 << 48:
        raise refuse("malformed_file", f"{name} declares an impossible shape")
    expected = "uint8" if name.startswith("x_") else "an integer type"
    if name.startswith("x_") and array.dtype != "|u1":
        raise refuse("invalid_data", f"{name} must be uint8, is {shown(array.dtype)}; {_REMEDY}")
    if name.startswith("y_") and array.dtype not in _LABEL_TYPES:
        raise refuse(
            "invalid_data",
            f"{name} must have {expected}, has {shown(array.dtype)}; use .astype(numpy.int64)",
        )
    num_bytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    if array.start + num_bytes != array.entry.num_bytes:
        raise refuse(
            "malformed_file",
            f"{name} declares {num_bytes} bytes, and has {array.entry.num_bytes - array.start}",
        )


def _check_images(arrays: dict[str, _Array]) -> None:
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays.get(f"y_{part}")
        if len(images.shape) != 4 or images.shape[3] not in (1, 3) or min(images.shape) < 1:
            raise refuse(
                "invalid_data",
                f"x_{part} has shape {images.shape}; it must be images x height x width x "
                "channels (1 or 3), with at least one image",
            )
        if labels is not None and labels.shape != images.shape[:1]:
            raise refuse(
                "invalid_data",
                f"y_{part} has shape {labels.shape}; it must be {images.shape[:1]}, "
                "one label for each image",
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise refuse(
            "invalid_data",
            f"images of x_train are {arrays['x_train'].shape[1:]}, "
            f"of x_test {arrays['x_test'].shape[1:]}; they must be the same",
        )


def _labels(source: ByteSource, arrays: dict[str, _Array], name: str) -> NDArray[np.int64]:
    labels = _load(source, arrays[name])
    if int(labels.min()) < 0 or int(labels.max()) >= MAX_CLASSES:
        raise refuse(
            "invalid_data",
            f"{name} has labels from {int(labels.min())} to {int(labels.max())}; "
            f"they must be 0 to {MAX_CLASSES - 1}",
        )
    return labels.astype(np.int64)


def _load(source: ByteSource, array: _Array) -> NDArray[np.generic]:
    flat = bytearray(array.entry.num_bytes)
    at = 0
    for piece in entry_chunks(source, array.entry):
        flat[at : at + len(piece)] = piece
        at += len(piece)
    values = np.frombuffer(flat, dtype=array.dtype, offset=array.start)
    return np.ascontiguousarray(
        values.reshape(array.shape, order="F" if array.fortran_order else "C")
    )
