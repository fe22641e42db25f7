"""Changes to bytes without a thought, and the values that break parsers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

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


def change_bytes(rng: random.Random, content: bytes) -> bytes:
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


def change_text(rng: random.Random, content: bytes, end: int) -> bytes:
    """Change a number or a word in the text at the front of a file."""
    tokens = list(re.finditer(rb"[0-9]+|True|False|[<|>][a-z][0-9]", content[:end]))
    if not tokens:
        return change_bytes(rng, content)
    token = rng.choice(tokens)
    new = rng.choice((str(rng.choice(EDGES)).encode(), b"True", b"<f4", b"|O", b"1", b"(", b""))
    return content[: token.start()] + new + content[token.end() :]
