"""Changes to a pickle and to a safetensors header that leave instructions, and JSON."""

from __future__ import annotations

import functools
import io
import json
import pickletools
import random
import struct

from tests.intake.mutate_bytes import EDGES, NAMES, change_bytes

GLOBALS = (
    *(b"torch\nFloatStorage", b"torch\nLongStorage", b"torch\nHalfStorage", b"os\nsystem"),
    *(b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter"),
    *(b"collections\nOrderedDict", b"builtins\neval", b"argparse\nNamespace", b"torch\nSize"),
)


def change_instruction(rng: random.Random, content: bytes) -> bytes:
    """Change one instruction of a pickle, and leave a stream of instructions."""
    places = _instructions(content)
    if not places:
        return change_bytes(rng, content)
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


def change_json(rng: random.Random, content: bytes) -> bytes:
    """Change a safetensors header, and state its length rightly."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        names = list(header)
        name = rng.choice(names)
    except (ValueError, IndexError, RecursionError):
        return change_bytes(rng, content)
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
        return change_bytes(rng, content)
    if rng.random() < 0.1:
        text = text[:-1] + b"," + text[1:]
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


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


def _number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw
