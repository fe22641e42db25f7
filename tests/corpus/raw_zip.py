"""A zip writer that can lie: every field of both headers can be set by hand."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    content: bytes = b""
    method: int = 0
    flags: int = 0
    crc: int | None = None
    local_name: str | None = None
    declared_bytes: int | None = None
    attributes: int = 0
    made_by: int = 0
    shares_header_of: int | None = None
    header_offset: int | None = None
    extra: bytes = b""


def raw_zip(entries: list[Entry], *, prefix: bytes = b"", comment: bytes = b"") -> bytes:
    out = bytearray(prefix)
    central = bytearray()
    headers: list[int] = []
    for entry in entries:
        name = entry.name.encode()
        local_name = (entry.name if entry.local_name is None else entry.local_name).encode()
        packed = entry.content
        if entry.method == 8:
            deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = deflater.compress(entry.content) + deflater.flush()
        size = len(entry.content) if entry.declared_bytes is None else entry.declared_bytes
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        at = len(out)
        if entry.shares_header_of is None:
            fields = (20, entry.flags, entry.method, 0, 0, crc, len(packed), size)
            out += struct.pack(
                "<4s5H3L2H", b"PK\x03\x04", *fields, len(local_name), len(entry.extra)
            )
            out += local_name + entry.extra + packed
        else:
            at = headers[entry.shares_header_of]
        headers.append(at)
        at = at if entry.header_offset is None else entry.header_offset
        fields = (entry.made_by, 20, entry.flags, entry.method, 0, 0, crc, len(packed), size)
        central += struct.pack("<4s6H3L", b"PK\x01\x02", *fields)
        central += struct.pack("<5H2L", len(name), 0, 0, 0, 0, entry.attributes, at) + name
    start = len(out)
    count = len(entries)
    end = b""
    if count > 0xFFFF:
        sizes = (44, 45, 45, 0, 0, count, count, len(central), start)
        end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *sizes)
        end += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(central), 1)
    short = min(count, 0xFFFF)
    sizes = (0, 0, short, short, len(central), start, len(comment))
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", *sizes)
    return bytes(out) + bytes(central) + end + comment
