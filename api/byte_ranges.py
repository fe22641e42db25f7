"""Parts of a file that a client asks for: the header Range (RFC 9110 section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_RANGES = 100
_PART = re.compile(r"(\d*)-(\d*)", re.ASCII)
_MAX_DIGITS = 18


class MalformedRangeError(Exception):
    """The header is for bytes, and no list of ranges."""


class NoRangeInsideError(Exception):
    """The file has none of the ranges."""


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """A part of a file that is there."""

    start: int
    end: int
    """The first byte behind it."""

    def content_range(self, size: int) -> str:
        """Return the value of the header Content-Range."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def read_ranges(header: str, size: int) -> list[ByteRange]:
    """Return what a header asks for of a file, in order, without overlaps; empty: all of it.

    Args:
        header: its value; one of another unit than bytes, or with very many ranges, is ignored.
        size: of the file, in bytes.

    Raises:
        MalformedRangeError: it says bytes, and what follows is no list of ranges.
        NoRangeInsideError: all ranges begin behind the file's end.
    """
    unit, separator, wanted = header.partition("=")
    parts = [part.strip() for part in wanted.split(",")]
    if unit.strip().lower() != "bytes" or not separator or len(parts) > MAX_RANGES:
        return []
    # A list may have empty places.
    found = [_read(part, size) for part in parts if part]
    if not found:
        raise MalformedRangeError
    inside = sorted(one for one in found if one.start < one.end)
    if not inside:
        raise NoRangeInsideError
    merged = inside[:1]
    for one in inside[1:]:
        if one.start <= merged[-1].end:
            merged[-1] = ByteRange(merged[-1].start, max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return merged


def _read(part: str, size: int) -> ByteRange:
    """Read one range; one that the file does not have is empty."""
    match = _PART.fullmatch(part)
    if match is None or part == "-":
        raise MalformedRangeError
    first, last = (_number(text) for text in match.groups())
    if first is None:
        assert last is not None, "the pattern and the check above"
        return ByteRange(max(size - last, 0), size)
    if last is not None and last < first:
        raise MalformedRangeError
    return ByteRange(first, size if last is None else min(last + 1, size))


def _number(digits: str) -> int | None:
    # Beyond any file; Python reads no number of thousands of digits.
    return int(digits.lstrip("0")[: _MAX_DIGITS + 1] or 0) if digits else None
