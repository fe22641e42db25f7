"""Writing the canonical data set: an uncompressed .npz, front to back, images as they come."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable

from momentum_core.checkpoint.refusal import refuse

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20
# 1980-01-01, the first day of the format: the same images give the same bytes.
_DATE = (1 << 5) | 1
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_BYTES = 118
_MAX_BYTES = (1 << 32) - 1


class NpzWriter:
    """An .npz under construction.

    Args:
        descriptor: an empty file, open for writing; the caller syncs and closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self._central: list[bytes] = []

    def add(self, name: str, dtype: str, pieces: Iterable[bytes], tail: tuple[int, ...]) -> int:
        """Write an array of as many rows as there are pieces; return their number.

        Args:
            name: its name.
            dtype: as numpy spells it.
            pieces: one row each, all of one size.
            tail: the shape of a row.

        Raises:
            CheckpointError: `expands_too_large`, beyond what a plain zip archive can hold.
        """
        start = self._at
        file_name = f"{name}.npy".encode()
        # Rows, checksum and sizes are known at the end; the header's place is kept until then.
        self._at += _LOCAL.size + len(file_name) + len(_MAGIC) + 2 + _HEADER_BYTES
        num_rows, content_crc, content_bytes = 0, 0, 0
        for piece in pieces:
            self._write(piece)
            content_crc = zlib.crc32(piece, content_crc)
            num_rows, content_bytes = num_rows + 1, content_bytes + len(piece)
        header = _npy_header(dtype, (num_rows, *tail))
        num_bytes = len(header) + content_bytes
        if self._at > _MAX_BYTES:
            raise refuse("expands_too_large", f"the images have more than {_MAX_BYTES} bytes")
        crc = _joined_crc(zlib.crc32(header), content_crc, content_bytes)
        fields = (_VERSION, 0, 0, 0, _DATE, crc, num_bytes, num_bytes, len(file_name), 0)
        local = _LOCAL.pack(b"PK\x03\x04", *fields)
        _write_at(self._descriptor, local + file_name + header, start)
        central = _CENTRAL.pack(b"PK\x01\x02", _VERSION, *fields, 0, 0, 0, 0, start)
        self._central.append(central + file_name)
        return num_rows

    def finish(self) -> None:
        """Write the directory."""
        directory = b"".join(self._central)
        count = len(self._central)
        end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), self._at, 0)
        self._write(directory + end)

    def _write(self, piece: bytes) -> None:
        _write_at(self._descriptor, piece, self._at)
        self._at += len(piece)


def _write_at(descriptor: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    described = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    assert len(described) < _HEADER_BYTES, "four numbers fit"
    padded = described.ljust(_HEADER_BYTES - 1) + b"\n"
    return _MAGIC + struct.pack("<H", len(padded)) + padded


def _joined_crc(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-32 of two pieces from the CRC of each: shift the first over the second.

    Source: zlib's crc32_combine; Python's zlib does not offer it.
    """
    # A CRC is linear over GF(2): a zero byte maps the register by one 32 x 32 matrix.
    column = [zlib.crc32(b"\0", 1 << bit ^ 0xFFFFFFFF) ^ 0xFFFFFFFF for bit in range(32)]
    while second_bytes:
        if second_bytes & 1:
            first = _times(column, first)
        column = [_times(column, each) for each in column]
        second_bytes >>= 1
    return first ^ second


def _times(columns: list[int], vector: int) -> int:
    total = 0
    for bit in range(32):
        if vector >> bit & 1:
            total ^= columns[bit]
    return total
