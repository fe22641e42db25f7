"""Mutated files: the same for the same format, seed and number, on every machine.

Most mutants are made with the format in mind, so that the change gets past the outer checks: zip
entries with the right checksum, pickle instructions that still follow one another, JSON that is
still JSON, tar headers with the right sum, PNG parts with the right CRC.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from tests.corpus.image_files import png_chunk
from tests.corpus.raw_tar import TarMember
from tests.corpus.raw_zip import Entry, raw_zip

Mutator = Callable[[random.Random, bytes], bytes]

EDGES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
EDGES += (2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63))
NAMES = (
    *("a.weight", "b", "state_dict", "module.b", "../x", "/x", "a\0b", "__class__", "", "x" * 300),
    *(
        "storage",
        "cpu",
        "cuda:0",
        "data/0",
        "data.pkl",
        "version",
        "train/a/000.png",
        "é",
        "\u202e",
    ),
)
GLOBALS = (
    *(b"torch\nFloatStorage", b"torch\nLongStorage", b"torch\nHalfStorage", b"os\nsystem"),
    *(b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter"),
    *(b"collections\nOrderedDict", b"builtins\neval", b"argparse\nNamespace", b"torch\nSize"),
)


def mutant(kind: str, bases: list[bytes], seed: int, number: int) -> bytes:
    """Return a mutated file.

    Args:
        kind: a key of `MUTATORS`.
        bases: honest files of that format.
        seed: of the series.
        number: place in the series.
    """
    rng = random.Random(f"{kind}-{seed}-{number}")
    content = rng.choice(bases)
    mutators = MUTATORS[kind]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(mutators)(rng, content)
    return content


def _bytes(rng: random.Random, content: bytes) -> bytes:
    """Change bytes without a thought."""
    if not content:
        return rng.randbytes(rng.randrange(64))
    at = rng.randrange(len(content))
    length = min(len(content) - at, rng.choice((1, 1, 2, 4, 8, 16, 64, 256)))
    match rng.randrange(8):
        case 0:
            return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        case 1:
            return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        case 2:
            return content[:at] + content[at + length :]
        case 3:
            return content[:at] + rng.randbytes(length) + content[at:]
        case 4:
            return content[: at + length] + content[at:]
        case 5:
            return content[:at]
        case 6:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(EDGES) % (1 << 8 * width)
            order = rng.choice(("little", "big"))
            return content[:at] + value.to_bytes(width, order) + content[at + width :]
    other = rng.randrange(len(content))
    return content[:at] + content[other : other + length] + content[at + length :]


@functools.lru_cache(maxsize=64)
def _instructions(content: bytes) -> tuple[tuple[int, int, str], ...]:
    """Where the instructions of the pickles at the front of a file begin and end."""
    found: list[tuple[int, int, str]] = []
    start = 0
    while start < len(content):
        stream = io.BytesIO(content[start:])
        try:
            places = [(opcode.name, at) for opcode, _, at in pickletools.genops(stream)]
        except ValueError:
            break
        ends = [at for _, at in places[1:]] + [stream.tell()]
        found += [
            (start + at, start + end, name) for (name, at), end in zip(places, ends, strict=True)
        ]
        start += stream.tell()
    return tuple(found)


def _instruction(rng: random.Random, content: bytes) -> bytes:
    """Change one instruction of a pickle, and leave a stream of instructions."""
    places = _instructions(content)
    if not places:
        return _bytes(rng, content)
    at, end, name = rng.choice(places)
    other_at, other_end, _ = rng.choice(places)
    other = content[other_at:other_end]
    match rng.randrange(7):
        case 0:
            return content[:at] + content[end:]
        case 1:
            return content[:end] + content[at:end] + content[end:]
        case 2:
            return content[:at] + other + content[end:]
        case 3:
            return content[:at] + other + content[at:]
        case 4 if name in ("BININT", "BININT1", "BININT2", "LONG1"):
            return content[:at] + _number(rng.choice(EDGES)) + content[end:]
        case 5 if name == "BINUNICODE":
            text = rng.choice(NAMES).encode()
            return content[:at] + b"X" + struct.pack("<L", len(text)) + text + content[end:]
        case 6 if name == "GLOBAL":
            return content[:at] + b"c" + rng.choice(GLOBALS) + b"\n" + content[end:]
    places_of_numbers = [one for one in places if one[2] in ("BININT", "BININT1", "BININT2")]
    if not places_of_numbers:
        return content[:at] + content[end:]
    at, end, _ = rng.choice(places_of_numbers)
    small = rng.choice((*range(16), *EDGES))
    return content[:at] + _number(small) + content[end:]


def _number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


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


def _zip_entry(change: Callable[[random.Random, Entry], bytes]) -> Mutator:
    """Change what is in an entry, and write the archive anew around it."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        entries = list(_entries(content))
        if not entries:
            return _bytes(rng, content)
        index = rng.randrange(len(entries))
        entries[index] = replace(entries[index], content=change(rng, entries[index]))
        return raw_zip(entries)

    return mutate


def _zip_header(rng: random.Random, content: bytes) -> bytes:
    """Change what the headers say of an entry."""
    entries = list(_entries(content))
    if not entries:
        return _bytes(rng, content)
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


def _in_pickle(rng: random.Random, entry: Entry) -> bytes:
    is_pickle = entry.name.endswith(".pkl")
    return (_instruction if is_pickle and rng.random() < 0.8 else _bytes)(rng, entry.content)


def _in_array(rng: random.Random, entry: Entry) -> bytes:
    if rng.random() < 0.3:
        return _bytes(rng, entry.content)
    return _text_number(rng, entry.content, 128)


def _text_number(rng: random.Random, content: bytes, end: int) -> bytes:
    """Change a number or a word in the text at the front of a file."""
    tokens = list(re.finditer(rb"[0-9]+|True|False|[<|>][a-z][0-9]", content[:end]))
    if not tokens:
        return _bytes(rng, content)
    token = rng.choice(tokens)
    new = rng.choice((str(rng.choice(EDGES)).encode(), b"True", b"<f4", b"|O", b"1", b"(", b""))
    return content[: token.start()] + new + content[token.end() :]


def _json(rng: random.Random, content: bytes) -> bytes:
    """Change a safetensors header, and state its length rightly."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        names = list(header)
        name = rng.choice(names)
    except (ValueError, IndexError, RecursionError):
        return _bytes(rng, content)
    value = rng.choice(
        (*EDGES, *NAMES, None, True, 1.5, [], {}, [[]], "F32", "F16", "BF16", "I64", "U8", "F4")
    )
    entry = header[name]
    match rng.randrange(7):
        case 0 if isinstance(entry, dict) and entry:
            entry[rng.choice(list(entry))] = value
        case 1 if isinstance(entry, dict):
            numbers = entry.get(rng.choice(("shape", "data_offsets")))
            if isinstance(numbers, list) and numbers:
                numbers[rng.randrange(len(numbers))] = value
        case 2:
            header[rng.choice(NAMES)] = header.pop(name)
        case 3:
            header[rng.choice(NAMES)] = entry
        case 4:
            header.pop(name)
        case 5:
            header["__metadata__"] = rng.choice((value, {"a": value}, {"a": "b"}))
        case _:
            header[name] = value
    try:
        text = json.dumps(header).encode()
    except UnicodeEncodeError:
        return _bytes(rng, content)
    if rng.random() < 0.1:
        text = text[:-1] + b"," + text[1:]
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


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


def _tar_member(rng: random.Random, content: bytes) -> bytes:
    """Change a header of a tar archive, and state its sum rightly; pack it in one of the ways."""
    members = list(_members(content))
    if not members:
        return _bytes(rng, content)
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
            {"content": _bytes(rng, members[index].content)},
            {"content": _pax(rng), "kind": rng.choice((b"x", b"g"))},
        )
    )
    members[index] = replace(members[index], **changes)
    if rng.random() < 0.2:
        members.insert(rng.randrange(len(members)), rng.choice(members))
    made = b"".join(member.build() for member in members)
    return _packed(rng, made + bytes(rng.choice((0, 512, 1024, 1024, 1024))))


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
            return _bytes(rng, gzip.compress(content, 1, mtime=0))
        case 3:
            return _bytes(rng, zstandard.compress(content, 1))
    return content


def _png_part(rng: random.Random, content: bytes) -> bytes:
    """Change a part of a PNG, and state its CRC rightly."""
    parts: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        parts.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not parts:
        return _bytes(rng, content)
    index = rng.randrange(len(parts))
    kind, part = parts[index]
    match rng.randrange(5):
        case 0:
            parts[index] = kind, _bytes(rng, part)
        case 1 if kind == b"IDAT":
            try:
                raw = zlib.decompress(part)
            except zlib.error:
                raw = b""
            parts[index] = kind, zlib.compress(_bytes(rng, raw), 1)
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


MUTATORS: dict[str, tuple[Mutator, ...]] = {
    "torch_zip": (
        *(_zip_entry(_in_pickle),) * 4,
        _zip_entry(lambda rng, entry: _bytes(rng, entry.content)),
        _zip_header,
        _bytes,
    ),
    "torch_legacy": (*(_instruction,) * 4, _bytes, _bytes),
    "safetensors": (*(_json,) * 4, _bytes, _bytes),
    "npz": (*(_zip_entry(_in_array),) * 3, _zip_header, _bytes),
    "zip_folder": (
        *(_zip_entry(lambda rng, entry: _bytes(rng, entry.content)),) * 2,
        *(_zip_header,) * 2,
        _bytes,
    ),
    "tar_folder": (*(_tar_member,) * 4, _bytes),
    "png": (*(_png_part,) * 3, _bytes),
    "jpeg": (_bytes,),
    "webp": (_bytes,),
}


@dataclass(frozen=True, slots=True)
class Series:
    """Mutants of one format, numbered from 0."""

    kind: str
    bases: list[bytes]
    seed: int

    @classmethod
    def of(cls, folder: Path, kind: str, seed: int) -> Series:
        """Make the series of the honest files in a folder."""
        names = sorted(folder.glob(f"{kind}-*"))
        return cls(kind, [name.read_bytes() for name in names], seed)

    def __getitem__(self, number: int) -> bytes:
        return mutant(self.kind, self.bases, self.seed, number)
