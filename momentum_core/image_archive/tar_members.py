"""Strict reading of a tar archive from front to back: files and folders, no links, no devices.

The checks of `tarfile.extractall` were bypassed again and again by links that lead out (the last
time as CVE-2025-4517). Here nothing is extracted: names only tell the classes, and an archive with
a link in it is refused.

Source: POSIX.1-2017, pax interchange format; GNU tar manual, basic tar format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.errors import CheckpointError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_EXTENSION_BYTES = 1 << 16
_MAX_EXTENSIONS = 8
_FILE_KINDS, _FOLDER_KINDS = b"\x000", b"5"
_LINK_KINDS = b"12346K"
_PAX, _PAX_FOR_ALL, _GNU_NAME = b"x", b"g", b"L"


@dataclass(frozen=True, slots=True)
class TarHeader:
    """One member, in front of its bytes.

    Attributes:
        name: its path, as written.
        is_folder: whether it is a folder.
        num_bytes: how many bytes follow.
    """

    name: str
    is_folder: bool
    num_bytes: int


class TarStream:
    """The members of an archive, one after the other.

    Args:
        pieces: the archive's bytes, unpacked.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()
        self._at = 0
        self._unread = 0
        self._padding = 0

    def headers(self) -> Iterator[TarHeader]:
        """Yield each member; its bytes can be read until the next one is asked for.

        Raises:
            CheckpointError: `unsafe_path` for links and devices, `unsafe_archive`,
                `malformed_file`, `truncated_file`, or a code of `pieces`.
        """
        while True:
            self._skip(self._unread + self._padding)
            header = self._next_header()
            if header is None:
                self._check_end()
                return
            self._unread = header.num_bytes
            self._padding = -header.num_bytes % _BLOCK
            yield header

    def read(self) -> bytes:
        """Return the current member's bytes; the caller has looked at their number before."""
        content = self._take(self._unread)
        self._unread = 0
        return content

    def _next_header(self) -> TarHeader | None:
        name: str | None = None
        size: int | None = None
        for _ in range(_MAX_EXTENSIONS):
            block = self._take(_BLOCK)
            if block == _ZEROS:
                return None
            _check_sum(block)
            kind, num_bytes = block[156:157], _number(block[124:136])
            if kind in (_PAX, _PAX_FOR_ALL, _GNU_NAME):
                content = self._extension(num_bytes)
                if kind == _GNU_NAME:
                    name = _decoded(content.rstrip(b"\0"))
                elif kind == _PAX:
                    fields = _pax_fields(content)
                    if any(key.startswith(b"GNU.sparse") for key in fields):
                        raise refuse("unsafe_archive", "the archive holds sparse files")
                    name = _decoded(fields[b"path"]) if b"path" in fields else name
                    size = _decimal(fields[b"size"]) if b"size" in fields else size
                continue
            name = _name(block) if name is None else name
            if kind in _LINK_KINDS:
                raise refuse(
                    "unsafe_path",
                    f"member {shown(name)} is a link or a device; pack the files themselves "
                    "(tar --dereference --hard-dereference)",
                )
            if kind not in _FILE_KINDS + _FOLDER_KINDS:
                raise refuse("unsafe_archive", f"member {shown(name)} is of a kind that is odd")
            is_folder = kind in _FOLDER_KINDS or name.endswith("/")
            size = num_bytes if size is None else size
            return TarHeader(name, is_folder, 0 if is_folder else size)
        raise refuse("unsafe_archive", "a member of the archive has too many headers")

    def _extension(self, num_bytes: int) -> bytes:
        if num_bytes > _MAX_EXTENSION_BYTES:
            raise refuse("unsafe_archive", "the archive holds a name or a note that is too long")
        content = self._take(num_bytes)
        self._skip(-num_bytes % _BLOCK)
        return content

    def _check_end(self) -> None:
        """Behind the end there may be zeros, which fill the last record, and nothing else."""
        for rest in chain([bytes(self._buffer[self._at :])], self._pieces):
            if rest.count(0) != len(rest):
                raise refuse("unsafe_archive", "bytes follow the end of the archive")

    def _take(self, num_bytes: int) -> bytes:
        while len(self._buffer) - self._at < num_bytes:
            self._refill()
        taken = bytes(self._buffer[self._at : self._at + num_bytes])
        self._at += num_bytes
        return taken

    def _skip(self, num_bytes: int) -> None:
        while num_bytes:
            here = min(num_bytes, len(self._buffer) - self._at)
            self._at += here
            num_bytes -= here
            if num_bytes:
                self._refill()

    def _refill(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise refuse(
                "truncated_file",
                "the archive has no end: it was cut off on its way; send it again",
            )
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += piece


def starts_tar(head: bytes) -> bool:
    """Whether a file's first 512 bytes are the header of a tar archive."""
    try:
        return len(head) == _BLOCK and head != _ZEROS and _has_its_sum(head)
    except CheckpointError:
        return False


def _check_sum(block: bytes) -> None:
    if not _has_its_sum(block):
        raise refuse("malformed_file", "a header of the archive is damaged; send it again")


def _has_its_sum(block: bytes) -> bool:
    stated = _number(block[148:156])
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    if stated == plain:
        return True
    # Very old programs added the bytes as signed ones.
    return stated == plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _number(field: bytes) -> int:
    """Read a number: octal digits, or GNU's binary form for what is too large for them."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0") or b"0"
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            raise refuse("malformed_file", "a number in the archive is no number")
        value = int(digits, 8)
    if value >= 1 << 63:
        raise refuse("malformed_file", "a size in the archive is not possible")
    return value


def _decimal(field: bytes) -> int:
    if not field.isdigit() or len(field) > 18:
        raise refuse("malformed_file", "a size in the archive is no number")
    return int(field)


def _pax_fields(content: bytes) -> dict[bytes, bytes]:
    """Read the records `length key=value` of an extended header."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        digits = content[at : at + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = content[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or length < len(digits) + 3 or not equals or record[-1:] != b"\n":
            raise refuse("malformed_file", "an extended header of the archive is damaged")
        fields[key] = value
        at += length
    return fields


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    # The prefix is POSIX's; GNU keeps times in its place.
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _decoded(name)


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("unsafe_path", f"the name {shown(repr(name))} is not UTF-8") from None
