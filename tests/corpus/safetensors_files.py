"""Hostile and broken safetensors files (rows S of the attack table)."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable

import numpy as np

from tests.corpus.case import Case
from tests.corpus.torch_files import SYSTEM
from tests.corpus.torch_forms import described, weights

_TYPES = {"f4": "F32", "f2": "F16", "i8": "I64", "u2": "BF16", "f8": "F64"}


def with_header(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + content


def safetensors_of(arrays: dict[str, np.ndarray]) -> bytes:
    header, content = {}, b""
    for name, array in arrays.items():
        offsets = [len(content), len(content) + array.nbytes]
        dtype = _TYPES[array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        content += array.tobytes()
    return with_header(json.dumps(header).encode(), content)


@functools.cache
def honest_safetensors() -> bytes:
    """A small honest file that is accepted."""
    return safetensors_of(weights())


def _entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def _file(num_bytes: int = 8, **header: object) -> Callable[[], bytes]:
    return lambda: with_header(json.dumps(header).encode(), bytes(num_bytes))


def _text(header: str, num_bytes: int = 8) -> Callable[[], bytes]:
    return lambda: with_header(header.encode(), bytes(num_bytes))


def _offsets(begin: str, end: str) -> Callable[[], bytes]:
    return _text(f'{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[{begin},{end}]}}}}')


def _many_empty() -> bytes:
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return with_header(
        ("{" + ",".join(f'"{index}":{entry}' for index in range(10**6)) + "}").encode()
    )


def _with_nan() -> bytes:
    changed = weights()
    changed["linear.bias"] = np.full(10, np.nan, np.float32)
    return safetensors_of(changed)


_ROWS: tuple[tuple[str, str, Callable[[], bytes]], ...] = (
    (
        "S01 header of 2**63 - 1 bytes",
        "malformed_file",
        lambda: with_header(b"{}", length=2**63 - 1),
    ),
    (
        "S02 header longer than the file",
        "malformed_file",
        lambda: with_header(b"{}", length=200_000_000),
    ),
    ("S03 overlapping ranges", "tensor_aliasing", _file(12, a=_entry(), b=_entry(offsets=(4, 12)))),
    ("S03 two names, one range", "tensor_aliasing", _file(8, a=_entry(), b=_entry())),
    (
        "S04 hole between tensors",
        "malformed_file",
        _file(20, a=_entry(), b=_entry(offsets=(12, 20))),
    ),
    ("S04 hole before the first", "malformed_file", _file(12, a=_entry(offsets=(4, 12)))),
    (
        "S05 shape that wraps in 64 bits",
        "malformed_file",
        _file(4, a=_entry(shape=(4194305, 4194305, 211106198978564), offsets=(0, 4))),
    ),
    (
        "S05 shape [0, 2**62]",
        "malformed_file",
        _file(0, a=_entry(shape=(0, 2**62), offsets=(0, 0))),
    ),
    (
        "S06 shape larger than its range",
        "tensor_out_of_bounds",
        _file(4, a=_entry(shape=(1000, 1000), offsets=(0, 4))),
    ),
    (
        "S06 range behind the end of the file",
        "truncated_file",
        _file(8, a=_entry(shape=(1000,), offsets=(0, 4000))),
    ),
    ("S07 bytes behind the last tensor", "malformed_file", _file(9, a=_entry())),
    (
        "S08 half of a file",
        "truncated_file",
        lambda: honest_safetensors()[: len(honest_safetensors()) // 2],
    ),
    ("S08 cut in the header", "truncated_file", lambda: honest_safetensors()[:300]),
    ("S09 a million empty tensors", "too_many_tensors", _many_empty),
    (
        "S10 JSON nested 100,000 deep",
        "malformed_file",
        _text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    ),
    (
        "S11 a name twice",
        "malformed_file",
        _text(
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        ),
    ),
    ("S12 header that is not UTF-8", "malformed_file", lambda: with_header(b'{"\xff":1}')),
    ("S12 header in UTF-16", "malformed_file", lambda: with_header("{}".encode("utf-16-le"))),
    ("S13 pickle under another name", "unsupported_format", lambda: described(SYSTEM)),
    ("S14 metadata of 7 MiB", "malformed_file", _file(__metadata__={"a": "x" * (7 << 20)})),
    ("S14 metadata that is no text", "malformed_file", _file(__metadata__={"a": 1}, a=_entry())),
    ("S14 metadata that is a list", "malformed_file", _file(__metadata__=["a"], a=_entry())),
    ("S14 offset is a float", "malformed_file", _offsets("0.0", "8")),
    ("S14 offset is negative", "malformed_file", _offsets("-8", "0")),
    ("S14 offset is 1e999", "malformed_file", _offsets("0", "1e999")),
    ("S14 offset is NaN", "malformed_file", _offsets("0", "NaN")),
    ("S14 offset is a bool", "malformed_file", _offsets("false", "8")),
    ("S14 offset of 5,000 digits", "malformed_file", _offsets("0", "9" * 5000)),
    ("S14 offsets reversed", "tensor_out_of_bounds", _offsets("8", "0")),
    ("S14 three offsets", "malformed_file", _file(a=_entry(offsets=(0, 4, 8)))),
    ("S14 shape is a number", "malformed_file", _file(a=_entry(shape=2))),
    ("S14 nine dimensions", "malformed_file", _file(4, a=_entry(shape=(1,) * 9, offsets=(0, 4)))),
    ("S14 unknown property", "malformed_file", _file(a=_entry(code="os.system"))),
    ("S14 entry is a list", "malformed_file", _file(a=[1])),
    ("S14 header is a list", "unsupported_format", lambda: with_header(b"[]")),
    ("S14 no tensors", "malformed_file", _file(0)),
    *(
        (f"S15 type {dtype}", "unsupported_dtype", _file(a=_entry(dtype=dtype)))
        for dtype in ("F4", "F8_E5M2", "X", "U64")
    ),
    ("S15 type is a list", "unsupported_dtype", _file(a=_entry(dtype=["F32"]))),
    (
        "S16 tensor named ../../etc/passwd",
        "bad_tensor_name",
        _file(**{"../../etc/passwd": _entry()}),
    ),
    # As much memory as 8 MiB of JSON can become.
    (
        "S18 2.7 million empty objects",
        "malformed_file",
        _text('{"a":[' + "{}," * 2_700_000 + "1]}"),
    ),
    ("S18 2.7 million empty lists", "malformed_file", _text('{"a":[' + "[]," * 2_700_000 + "1]}")),
    ("S18 2 million numbers", "malformed_file", _text('{"a":[' + "1.5," * 2_000_000 + "1]}")),
    (
        "S18 text in wide characters",
        "malformed_file",
        _text('{"a":["' + "x" * 8_000_000 + "\U0001f600" + '"]}'),
    ),
    ("S17 NaN", "non_finite_weights", _with_nan),
)

SAFETENSORS_CASES = tuple(Case(name, "checkpoint", code, build) for name, code, build in _ROWS)
