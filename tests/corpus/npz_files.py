"""Hostile and broken data sets in an .npz (rows D of the attack table)."""

from __future__ import annotations

import functools
import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.corpus.case import MARKER, Case
from tests.corpus.raw_zip import Entry, raw_zip


def arrays() -> dict[str, np.ndarray]:
    """A small honest data set: 12 and 6 images of 8 x 8 x 3, three classes."""
    pixels = (np.arange(18 * 8 * 8 * 3) * 37 % 251).astype(np.uint8).reshape(18, 8, 8, 3)
    labels = np.arange(18) % 3
    return {
        "x_train": pixels[:12],
        "y_train": labels[:12],
        "x_test": pixels[12:],
        "y_test": labels[12:].astype(np.uint8),
    }


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def entries(**changes: np.ndarray) -> list[Entry]:
    return [Entry(f"{name}.npy", npy(array)) for name, array in (arrays() | changes).items()]


@functools.cache
def honest_npz() -> bytes:
    """A small honest data set that is accepted."""
    return raw_zip(entries())


def _with(**changes: np.ndarray) -> Callable[[], bytes]:
    return lambda: raw_zip(entries(**changes))


def _first(**changes: object) -> Callable[[], bytes]:
    def build() -> bytes:
        head, *rest = entries()
        return raw_zip([replace(head, **changes), *rest])

    return build


def _header(text: str) -> Callable[[], bytes]:
    """The first array has this header and 64 bytes."""
    raw = text.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(64)
    return _first(content=content)


class _Boom:
    def __reduce__(self):
        return (print, (f"touch {MARKER}",))


def _pickled() -> bytes:
    content = npy(np.zeros(0, dtype=object))[:128] + pickle.dumps([_Boom()])
    return raw_zip([Entry("x_train.npy", content), *entries()[1:]])


def _bomb() -> bytes:
    head = entries(x_train=np.zeros((12, 512, 512, 3), np.uint8))[0]
    return raw_zip([replace(head, method=8), *entries()[1:]])


def _false_size() -> bytes:
    content = npy(arrays()["x_train"])
    longer = Entry("x_train.npy", content + bytes(5000), method=8, declared_bytes=len(content))
    return raw_zip([longer, *entries()[1:]])


_PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
_IMAGES = np.zeros((12, 8, 8, 3), np.uint8)

_ROWS: tuple[tuple[str, str, Callable[[], bytes]], ...] = (
    ("D18 objects with code", "malformed_file", _pickled),
    ("D18 objects for labels", "malformed_file", _with(y_train=np.array([None] * 12))),
    ("D18 shape (2**40,)", "malformed_file", _header(_PLAIN % f"{2**40},")),
    ("D18 shape that wraps in 64 bits", "malformed_file", _header(_PLAIN % f"{2**62}, 4, 1, 1")),
    ("D18 shape of 3,000 numbers", "malformed_file", _header(_PLAIN % ("1," * 3000))),
    (
        "D18 header with code",
        "malformed_file",
        _header("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (8,), }"),
    ),
    ("D18 header that is no dictionary", "malformed_file", _header("[" * 400)),
    (
        "D18 structured type",
        "malformed_file",
        _header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (8,), }"),
    ),
    ("D18 not an array", "malformed_file", _first(content=b"text" * 50)),
    ("D18 empty array file", "malformed_file", _first(content=b"")),
    ("D20 text", "unsupported_format", lambda: b"x_train,y_train\n1,2\n"),
    ("D20 empty file", "truncated_file", bytes),
    ("D20 half of an archive", "truncated_file", lambda: honest_npz()[: len(honest_npz()) // 2]),
    ("D20 no y_test", "invalid_data", lambda: raw_zip(entries()[:3])),
    ("D20 images of floats", "invalid_data", _with(x_train=_IMAGES.astype(np.float32))),
    ("D20 labels of floats", "invalid_data", _with(y_train=np.zeros(12))),
    ("D20 labels of bools", "invalid_data", _with(y_train=np.zeros(12, bool))),
    ("D20 labels as one-hot rows", "invalid_data", _with(y_train=np.zeros((12, 3), np.int64))),
    ("D20 one label too few", "invalid_data", _with(y_train=np.zeros(11, np.int64))),
    ("D20 negative label", "invalid_data", _with(y_train=np.full(12, -1))),
    ("D20 label 10**9", "invalid_data", _with(y_test=np.full(6, 10**9))),
    (
        "D20 no images",
        "invalid_data",
        _with(x_test=np.zeros((0, 8, 8, 3), np.uint8), y_test=np.zeros(0, np.int64)),
    ),
    ("D20 channels first", "invalid_data", _with(x_train=np.zeros((12, 3, 8, 8), np.uint8))),
    ("D20 flat images", "invalid_data", _with(x_train=np.zeros((12, 192), np.uint8))),
    ("D20 two image sizes", "invalid_data", _with(x_test=np.zeros((6, 9, 9, 3), np.uint8))),
    (
        "D07 two entries, one header",
        "unsafe_archive",
        lambda: raw_zip([*entries(), Entry("z.npy", entries()[0].content, shares_header_of=0)]),
    ),
    ("D08 false size", "unsafe_archive", _false_size),
    ("D09 compression bomb", "expands_too_large", _bomb),
    ("D09 3 GiB declared", "expands_too_large", _first(method=8, declared_bytes=3 << 30)),
    ("D21 encrypted", "unsafe_archive", _first(flags=1)),
    ("D21 wrong checksum", "checksum_mismatch", _first(crc=1)),
    ("D21 two names", "unsafe_archive", _first(local_name="x_other.npy")),
    ("D21 unknown packing", "unsafe_archive", _first(method=14)),
    ("D21 entry twice", "unsafe_archive", lambda: raw_zip([*entries(), entries()[0]])),
    (
        "D21 100 entries",
        "too_many_files",
        lambda: raw_zip([*entries(), *(Entry(f"e{index}") for index in range(100))]),
    ),
)

NPZ_CASES = tuple(Case(name, "dataset", code, build) for name, code, build in _ROWS)
