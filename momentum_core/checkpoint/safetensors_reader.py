"""Strict reading of safetensors: a JSON header with names, types, shapes and ranges; then bytes.

Source: https://github.com/huggingface/safetensors#format. Stricter than the reference: no name
twice, shape and range must agree, ranges must tile the file.
"""

from __future__ import annotations

import json
import math
from typing import Any

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.checkpoint.tensor import ITEM_TYPES, StoredTensor, row_major_stride
from momentum_core.errors import CheckpointError

_LENGTH_BYTES = 8
# A product beyond this is no size: it was made to wrap around in 64-bit arithmetic.
_MAX_ELEMENTS = 1 << 48
_KNOWN_ODD_TYPES = (
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "U16",
    "U32",
    "U64",
)


def read_safetensors(source: ByteSource, limits: Limits) -> dict[str, StoredTensor]:
    """Read the header; return the tensors by name, in the order of their bytes.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
    """
    header, start = _read_header(source, limits)
    metadata = header.pop("__metadata__", {})
    _check_metadata(metadata, limits)
    if len(header) > limits.max_tensors:
        raise _too_many(limits)
    tensors: list[tuple[str, StoredTensor, int]] = []
    for name, entry in header.items():
        tensor, end = _read_tensor(source, name, entry, start, limits)
        tensors.append((name, tensor, end))
    tensors.sort(key=lambda item: (item[1].offset, item[2]))
    expected = start
    for name, tensor, end in tensors:
        if tensor.offset < expected:
            raise refuse("tensor_aliasing", f"tensor {shown(name)} shares bytes with another")
        if tensor.offset > expected:
            raise refuse("malformed_file", f"unused bytes lie before tensor {shown(name)}")
        expected = end
    if expected > source.num_bytes:
        raise refuse(
            "truncated_file",
            f"the header describes {expected} bytes, the file has {source.num_bytes}; "
            "it was cut off on its way: send it again",
        )
    if expected < source.num_bytes:
        raise refuse(
            "malformed_file", f"{source.num_bytes - expected} bytes follow the last tensor"
        )
    return {name: tensor for name, tensor, _ in tensors}


def _read_header(source: ByteSource, limits: Limits) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(source.read_at(0, _LENGTH_BYTES), "little")
    if length > limits.max_header_bytes:
        if length <= source.num_bytes and _counts_more_tensors(source, length, limits):
            raise _too_many(limits)
        raise refuse(
            "malformed_file",
            f"the header would have {length} bytes; the limit is {limits.max_header_bytes}",
        )
    text = source.read_at(_LENGTH_BYTES, length)
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except CheckpointError:
        raise
    except (RecursionError, ValueError):
        # Not UTF-8, not JSON, nested too deep, or a number of thousands of digits.
        raise refuse("malformed_file", "the header is not valid JSON in UTF-8") from None
    if not isinstance(header, dict):
        raise refuse("malformed_file", "the header is not a JSON object")
    return header, _LENGTH_BYTES + length


def _counts_more_tensors(source: ByteSource, length: int, limits: Limits) -> bool:
    num_tensors = 0
    for piece in source.chunks(_LENGTH_BYTES, min(length, 16 * limits.max_header_bytes)):
        num_tensors += piece.count(b'"data_offsets"')
        if num_tensors > limits.max_tensors:
            return True
    return False


def _too_many(limits: Limits) -> Exception:
    return refuse(
        "too_many_tensors", f"the file holds more than {limits.max_tensors} tensors, the limit"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise refuse("malformed_file", "the header has a name twice")
    return made


def _no_constant(_: str) -> None:
    raise refuse("malformed_file", "the header holds a number that JSON does not know")


def _check_metadata(metadata: object, limits: Limits) -> None:
    if not isinstance(metadata, dict):
        raise refuse("malformed_file", "__metadata__ is not a JSON object")
    num_bytes = 0
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise refuse("malformed_file", "__metadata__ holds a value that is no text")
        num_bytes += len(key) + len(value)
    if num_bytes > limits.max_metadata_bytes:
        raise refuse(
            "malformed_file",
            f"__metadata__ has {num_bytes} characters; the limit is {limits.max_metadata_bytes}",
        )


def _read_tensor(
    source: ByteSource, name: str, entry: object, start: int, limits: Limits
) -> tuple[StoredTensor, int]:
    """Return the tensor of a header entry, and the position behind its last byte."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse(
            "malformed_file", f"tensor {shown(name)} needs dtype, shape and data_offsets, only"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_TYPES:
        known = shown(dtype) if dtype in _KNOWN_ODD_TYPES else f"unknown type {shown(dtype)}"
        raise refuse(
            "unsupported_dtype",
            f"tensor {shown(name)} is stored as {known}; save it as float32, float16 or bfloat16",
        )
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise refuse("malformed_file", f"shape or range of tensor {shown(name)} is not possible")
    if len(shape) > limits.max_dimensions:
        raise refuse(
            "malformed_file",
            f"tensor {shown(name)} has {len(shape)} dimensions; "
            f"the limit is {limits.max_dimensions}",
        )
    num_elements = math.prod(shape)
    if num_elements > _MAX_ELEMENTS or max(shape, default=0) > _MAX_ELEMENTS:
        raise refuse("malformed_file", f"tensor {shown(name)} has an impossible shape")
    begin, end = offsets
    num_bytes = num_elements * ITEM_TYPES[dtype].itemsize
    if end - begin != num_bytes:
        raise refuse(
            "tensor_out_of_bounds",
            f"tensor {shown(name)} needs {num_bytes} bytes, its range has {end - begin}",
        )
    stride = row_major_stride(tuple(shape))
    return StoredTensor(source, dtype, tuple(shape), stride, start + begin), start + end


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )
