"""Strict reading of a zip archive's directory: one file, one meaning, no overlap, no surprise.

Python's `zipfile` trusts the directory at the end; other readers trust the headers in front of the
entries. Archives in which the two differ show each reader something else, so they are refused.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.refusal import refuse, shown

STORED = 0
DEFLATED = 8

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
# Speed of packing, sizes behind the content, names in UTF-8.
_KNOWN_FLAGS = 0x6 | 0x8 | 0x800
_DOS_FOLDER = 0x10
_NEWEST_VERSION = 63
_MAX_NAME_BYTES = 1024
_UNIX = 3


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file in an archive.

    Attributes:
        name: its path, as written.
        offset: position of its bytes in the archive.
        packed_bytes: how many there are.
        num_bytes: how many they become.
        method: `STORED` or `DEFLATED`.
        crc: CRC-32 of the unpacked bytes.
        is_link: whether it is a symbolic link or another special file.
    """

    name: str
    offset: int
    packed_bytes: int
    num_bytes: int
    method: int
    crc: int
    is_link: bool


def read_directory(source: ByteSource, *, max_entries: int, too_many: str) -> tuple[ZipEntry, ...]:
    """Read and check the directory of an archive that fills the whole file.

    Args:
        source: the file.
        max_entries: more are refused before they are read.
        too_many: code of that refusal.

    Raises:
        CheckpointError: `truncated_file` without an end record, `unsafe_archive` where the
            archive is ambiguous or uses what is not allowed, `malformed_file`, or `too_many`.
    """
    num_entries, start, num_bytes = _find_directory(source)
    if num_entries > max_entries:
        raise refuse(too_many, f"the archive has {num_entries} entries; the limit is {max_entries}")
    # 46 bytes, a name and two 64-bit fields: anything much longer is stuffing.
    if num_bytes > (max_entries + 1) * 256 + (1 << 20):
        raise refuse("unsafe_archive", "the directory of the archive is too large for its entries")
    directory = source.read_at(start, num_bytes)
    entries: list[ZipEntry] = []
    occupied: list[tuple[int, int]] = []
    names: set[str] = set()
    at = 0
    for _ in range(num_entries):
        entry, header, at = _read_entry(source, directory, at, start)
        if entry.name in names:
            raise refuse("unsafe_archive", f"the archive holds {shown(entry.name)} twice")
        names.add(entry.name)
        entries.append(entry)
        occupied.append((header, entry.offset + entry.packed_bytes))
    if at != len(directory):
        raise refuse("malformed_file", "the directory of the archive has unused bytes")
    _check_ranges(occupied, start)
    return tuple(entries)


def read_entry(source: ByteSource, entry: ZipEntry, *, max_bytes: int) -> bytes:
    """Return an entry's unpacked bytes, checked against its size and CRC.

    Raises:
        CheckpointError: `expands_too_large`, `unsafe_archive` or `checksum_mismatch`.
    """
    if entry.num_bytes > max_bytes:
        raise refuse(
            "expands_too_large",
            f"entry {shown(entry.name)} has {entry.num_bytes} bytes; the limit is {max_bytes}",
        )
    return b"".join(entry_chunks(source, entry))


def entry_chunks(source: ByteSource, entry: ZipEntry) -> Iterator[bytes]:
    """Yield an entry's unpacked bytes; the last piece comes only if size and CRC are right.

    Raises:
        CheckpointError: `unsafe_archive`, when it unpacks to another size than it declares;
            `checksum_mismatch`, when the CRC is wrong.
    """
    crc, num_bytes = 0, 0
    for piece in _unpacked(source, entry):
        num_bytes += len(piece)
        if num_bytes > entry.num_bytes:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if num_bytes != entry.num_bytes:
        raise refuse(
            "unsafe_archive",
            f"entry {shown(entry.name)} does not unpack to the {entry.num_bytes} bytes it declares",
        )
    check_crc(entry, crc)


def check_crc(entry: ZipEntry, crc: int) -> None:
    """Check the CRC-32 of an entry.

    Raises:
        CheckpointError: `checksum_mismatch`.
    """
    if crc != entry.crc:
        raise refuse(
            "checksum_mismatch",
            f"the checksum of entry {shown(entry.name)} is wrong: the file was damaged on its "
            "way, or written with torch.serialization.set_crc32_options(False); send it again",
        )


def _unpacked(source: ByteSource, entry: ZipEntry) -> Iterator[bytes]:
    if entry.method == STORED:
        yield from source.chunks(entry.offset, entry.packed_bytes)
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for packed in source.chunks(entry.offset, entry.packed_bytes):
            pending = packed
            while pending:
                yield inflater.decompress(pending, 1 << 20)
                pending = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error:
        raise refuse("unsafe_archive", f"entry {shown(entry.name)} is not valid DEFLATE") from None
    if not inflater.eof or inflater.unused_data:
        raise refuse("unsafe_archive", f"entry {shown(entry.name)} does not end where it should")


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """Return number of entries, start and size of the directory."""
    end_at = source.num_bytes - _END.size
    tail = source.read_at(end_at, _END.size) if end_at >= 0 else b""
    if not tail.startswith(b"PK\x05\x06"):
        searched = min(source.num_bytes, _END.size + 65535)
        at = source.read_at(source.num_bytes - searched, searched).rfind(b"PK\x05\x06")
        if 0 <= at <= searched - _END.size:
            raise refuse("unsafe_archive", "bytes follow the end of the archive")
        raise refuse(
            "truncated_file",
            "the archive has no end: the file was cut off on its way; send it again",
        )
    _, disk, first_disk, here, total, num_bytes, start, comment = _END.unpack(tail)
    directory_end = end_at
    if comment:
        raise refuse("unsafe_archive", "the archive declares a comment that is not there")
    locator_at = end_at - _LOCATOR64.size
    locator = source.read_at(locator_at, _LOCATOR64.size) if locator_at >= 0 else b""
    if locator.startswith(b"PK\x06\x07"):
        _, part, end64_at, num_parts = _LOCATOR64.unpack(locator)
        if part or num_parts != 1 or end64_at != locator_at - _END64.size:
            raise refuse("unsafe_archive", "the archive's 64-bit end record is misplaced")
        signature, rest, _, _, disk64, first64, here64, total64, size64, start64 = _END64.unpack(
            source.read_at(end64_at, _END64.size)
        )
        # The length counts what comes behind it.
        if signature != b"PK\x06\x06" or rest != _END64.size - 12:
            raise refuse("unsafe_archive", "the archive's 64-bit end record is missing or odd")
        for short, long, full in (
            (here, here64, 0xFFFF),
            (total, total64, 0xFFFF),
            (num_bytes, size64, 0xFFFFFFFF),
            (start, start64, 0xFFFFFFFF),
        ):
            if short not in (full, long):
                raise refuse("unsafe_archive", "the archive's two end records differ")
        disk, first_disk, here, total = disk64, first64, here64, total64
        num_bytes, start, directory_end = size64, start64, end64_at
    if disk or first_disk or here != total:
        raise refuse("unsafe_archive", "the archive has several parts")
    if start + num_bytes != directory_end:
        raise refuse("unsafe_archive", "the archive has bytes before or after it that are not its")
    return total, start, num_bytes


def _read_entry(
    source: ByteSource, directory: bytes, at: int, directory_start: int
) -> tuple[ZipEntry, int, int]:
    """Return the entry at `at`, the position of its local header, and the next `at`."""
    if at + _CENTRAL.size > len(directory):
        raise refuse("malformed_file", "the directory of the archive is too short")
    fields = _CENTRAL.unpack_from(directory, at)
    signature, made_by, version, flags, method, _, _, crc, packed, size = fields[:10]
    name_len, extra_len, comment_len, disk, _, attributes, header = fields[10:]
    at += _CENTRAL.size
    end = at + name_len + extra_len + comment_len
    if signature != b"PK\x01\x02" or end > len(directory):
        raise refuse("malformed_file", "the directory of the archive is damaged")
    raw_name = directory[at : at + name_len]
    name = _decoded(raw_name)
    extra = directory[at + name_len : at + name_len + extra_len]
    size, packed, header = _widened(extra, size, packed, header)
    if flags & _ENCRYPTED_FLAGS:
        raise refuse("unsafe_archive", f"entry {shown(name)} is encrypted")
    if (
        method not in (STORED, DEFLATED)
        or disk
        or flags & ~_KNOWN_FLAGS
        or version & 0xFF > _NEWEST_VERSION
    ):
        raise refuse("unsafe_archive", f"entry {shown(name)} is packed in a way that is not read")
    if method == STORED and packed != size:
        raise refuse("unsafe_archive", f"entry {shown(name)} declares two sizes")
    if attributes & _DOS_FOLDER and not name.endswith("/"):
        # miniz, and so torch, gives memory as it finds it for the bytes of a "folder".
        raise refuse("unsafe_archive", f"entry {shown(name)} says that it is a folder")
    local = source.read_at(header, _LOCAL.size) if header < directory_start else b""
    if not local.startswith(b"PK\x03\x04"):
        raise refuse("unsafe_archive", f"entry {shown(name)} has no header of its own")
    _, _, local_flags, local_method, _, _, _, _, _, local_name, local_extra = _LOCAL.unpack(local)
    offset = header + _LOCAL.size + local_name + local_extra
    own = source.read_at(header + _LOCAL.size, local_name + local_extra)
    if not _is_well_formed(extra) or not _is_well_formed(own[local_name:]):
        raise refuse("unsafe_archive", f"a header of entry {shown(name)} is damaged")
    if (own[:local_name], local_method, local_flags) != (raw_name, method, flags):
        raise refuse("unsafe_archive", f"the two headers of entry {shown(name)} differ")
    if offset + packed > directory_start:
        raise refuse("unsafe_archive", f"entry {shown(name)} runs into the directory")
    kind = (attributes >> 16) if made_by >> 8 == _UNIX else 0
    is_link = bool(stat.S_IFMT(kind)) and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))
    return ZipEntry(name, offset, packed, size, method, crc, is_link), header, end


def _decoded(raw_name: bytes) -> str:
    if len(raw_name) > _MAX_NAME_BYTES or b"\0" in raw_name:
        raise refuse("unsafe_archive", "an entry has an impossible name")
    try:
        return raw_name.decode("utf-8")
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def _is_well_formed(extra: bytes) -> bool:
    """Whether extra fields, each with its number and its length, fill their place exactly."""
    at = 0
    while at + 4 <= len(extra):
        at += 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
    return at == len(extra)


def _widened(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Return the sizes and the position, taken from the 64-bit field where they are full."""
    values = [size, packed, header]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:
            wide = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
            if length < 8 * len(wide) or at + length > len(extra):
                raise refuse("malformed_file", "a 64-bit size in the archive is missing")
            for place, index in enumerate(wide):
                (values[index],) = struct.unpack_from("<Q", extra, at + 8 * place)
            break
        at += length
    return values[0], values[1], values[2]


def _check_ranges(occupied: list[tuple[int, int]], directory_start: int) -> None:
    """Check that the entries begin at the start of the file and do not overlap."""
    occupied.sort()
    if (occupied[0][0] if occupied else directory_start) != 0:
        raise refuse("unsafe_archive", "the archive has bytes in front of its first entry")
    for (_, end), (begin, _) in pairwise(occupied):
        if begin < end:
            raise refuse("unsafe_archive", "two entries of the archive share bytes")
