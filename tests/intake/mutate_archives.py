"""Changes to zip and tar archives and to PNG images, with every checksum right."""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import zstandard

from tests.corpus.image_files import png_chunk
from tests.corpus.raw_tar import TarMember
from tests.corpus.raw_zip import Entry, raw_zip
from tests.intake.mutate_bytes import EDGES, NAMES, Mutator, change_bytes


def change_entry(change: Callable[[random.Random, Entry], bytes]) -> Mutator:
    """Change what is in an entry, and write the archive anew around it."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        entries = list(_entries(content))
        if not entries:
            return change_bytes(rng, content)
        index = rng.randrange(len(entries))
        entries[index] = replace(entries[index], content=change(rng, entries[index]))
        return raw_zip(entries)

    return mutate


def change_header(rng: random.Random, content: bytes) -> bytes:
    """Change what the headers say of an entry."""
    entries = list(_entries(content))
    if not entries:
        return change_bytes(rng, content)
    index = rng.randrange(len(entries))
    changes: dict[str, object] = rng.choice(
        (
            {"name": rng.choice(NAMES)},
            {"local_name": rng.choice(NAMES)},
            {"method": rng.choice((0, 8, 12, 14))},
            {"flags": 1 << rng.randrange(16)},
            {"crc": rng.choice(EDGES) % 2**32},
            {"declared_bytes": rng.choice(EDGES) % 2**32},
            {"attributes": rng.choice(EDGES) % 2**32, "made_by": 3 << 8},
            {"header_offset": rng.randrange(len(content))},
            {"shares_header_of": rng.randrange(index + 1) if index else None},
        )
    )
    entries[index] = replace(entries[index], **changes)
    if rng.random() < 0.2:
        entries.insert(rng.randrange(len(entries)), rng.choice(entries))
    if rng.random() < 0.1:
        del entries[rng.randrange(len(entries))]
    try:
        return raw_zip(entries)
    except (struct.error, IndexError):
        return raw_zip([])


def change_member(rng: random.Random, content: bytes) -> bytes:
    """Change a header of a tar archive, and state its sum rightly; pack it in one of the ways."""
    members = list(_members(content))
    if not members:
        return change_bytes(rng, content)
    index = rng.randrange(len(members))
    changes: dict[str, object] = rng.choice(
        (
            {"name": rng.choice(NAMES)[:100]},
            {"kind": rng.choice(b"0123456789xgLKSVD\0".decode()).encode()},
            {"link": rng.choice(NAMES)[:50]},
            {"size": b"%011o\0" % (rng.choice(EDGES) % 8**11)},
            {"size": rng.randbytes(12)},
            {"size": b"\x80" + (rng.choice(EDGES) % 2**64).to_bytes(11, "big")},
            {"checksum": rng.randbytes(8)},
            {"prefix": rng.choice(NAMES).encode()[:155]},
            {"content": change_bytes(rng, members[index].content)},
            {"content": _pax(rng), "kind": rng.choice((b"x", b"g"))},
        )
    )
    members[index] = replace(members[index], **changes)
    if rng.random() < 0.2:
        members.insert(rng.randrange(len(members)), rng.choice(members))
    made = b"".join(member.build() for member in members)
    return _packed(rng, made + bytes(rng.choice((0, 512, 1024, 1024, 1024))))


def change_part(rng: random.Random, content: bytes) -> bytes:
    """Change a part of a PNG, and state its CRC rightly."""
    parts: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        parts.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not parts:
        return change_bytes(rng, content)
    index = rng.randrange(len(parts))
    kind, part = parts[index]
    match rng.randrange(5):
        case 0:
            parts[index] = kind, change_bytes(rng, part)
        case 1 if kind == b"IDAT":
            try:
                raw = zlib.decompress(part)
            except zlib.error:
                raw = b""
            parts[index] = kind, zlib.compress(change_bytes(rng, raw), 1)
        case 2:
            parts.insert(index, (rng.choice((b"PLTE", b"tRNS", b"acTL", b"IDAT", b"zTXt")), part))
        case 3:
            del parts[index]
        case _:
            at = rng.randrange(13)
            value = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            if parts[0][0] == b"IHDR" and len(parts[0][1]) == 13:
                head = parts[0][1][:at] + bytes([value]) + parts[0][1][at + 1 :]
                parts[0] = b"IHDR", head
    return content[:8] + b"".join(png_chunk(*part) for part in parts)


@functools.lru_cache(maxsize=64)
def _entries(content: bytes) -> tuple[Entry, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return tuple(
                Entry(one.filename, archive.read(one), 8 if one.compress_type else 0)
                for one in archive.infolist()
            )
    except Exception:
        return ()


@functools.lru_cache(maxsize=64)
def _members(content: bytes) -> tuple[TarMember, ...]:
    """The members of an uncompressed tar archive with plain headers."""
    members: list[TarMember] = []
    at = 0
    while content[at : at + 512].strip(b"\0") and len(content) >= at + 512:
        head = content[at : at + 512]
        try:
            size = int(head[124:135], 8)
        except ValueError:
            break
        name = head[:100].rstrip(b"\0")
        members.append(TarMember(name, content[at + 512 : at + 512 + size], head[156:157]))
        at += 512 + size + -size % 512
    return tuple(members)


def _pax(rng: random.Random) -> bytes:
    key = rng.choice((b"path", b"size", b"linkpath", b"GNU.sparse.major", b"comment", b""))
    value = rng.choice((str(rng.choice(EDGES)), *NAMES)).encode()
    length = len(key) + len(value) + 5 + rng.choice((0, 0, 0, 1, -1))
    return b"%d %b=%b\n" % (length, key, value)


def _packed(rng: random.Random, content: bytes) -> bytes:
    match rng.randrange(6):
        case 0:
            return gzip.compress(content, 1, mtime=0)
        case 1:
            return zstandard.compress(content, 1)
        case 2:
            return change_bytes(rng, gzip.compress(content, 1, mtime=0))
        case 3:
            return change_bytes(rng, zstandard.compress(content, 1))
    return content
